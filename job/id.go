package job

import (
	"encoding/hex"
	"fmt"
	"time"
)

// ID identifies a job, or a worker session: a UUIDv7 (RFC 9562), so that ids
// sort by the time they were made. The zero ID means "none".
type ID [16]byte

// ParseID reads the canonical textual form of a UUID, 8-4-4-4-12 hexadecimal
// digits. It returns an *Error with code InvalidArgument for anything else.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return id, Errorf(InvalidArgument, ReasonBadID, "job id %q is not a UUID", clip(s, 64))
	}
	packed := s[0:8] + s[9:13] + s[14:18] + s[19:23] + s[24:36]
	if _, err := hex.Decode(id[:], []byte(packed)); err != nil {
		return ID{}, Errorf(InvalidArgument, ReasonBadID, "job id %q is not a UUID", s)
	}
	return id, nil
}

// String returns the canonical textual form.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// IsZero reports whether id is the zero ID.
func (id ID) IsZero() bool { return id == ID{} }

// Time returns the moment a UUIDv7 was made, to the millisecond.
func (id ID) Time() time.Time {
	ms := int64(id[0])<<40 | int64(id[1])<<32 | int64(id[2])<<24 |
		int64(id[3])<<16 | int64(id[4])<<8 | int64(id[5])
	return time.UnixMilli(ms)
}

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	if err == nil {
		*id = v
	}
	return err
}

// Scan implements database/sql.Scanner for both ledgers: SQLite keeps an id as
// 16 bytes, PostgreSQL's uuid arrives as text. NULL scans as the zero ID.
func (id *ID) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*id = ID{}
		return nil
	case string:
		return id.UnmarshalText([]byte(v))
	case [16]byte:
		*id = v
		return nil
	case []byte:
		switch len(v) {
		case 0:
			*id = ID{}
			return nil
		case 16:
			copy(id[:], v)
			return nil
		default:
			return id.UnmarshalText(v)
		}
	default:
		return fmt.Errorf("job: cannot scan %T into an ID", src)
	}
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
