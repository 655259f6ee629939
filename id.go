package errand

import (
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// ID identifies a job: a UUIDv7 (RFC 9562), so that ids sort by the time they
// were made. The zero ID means "none".
type ID uuid.UUID

// NewID makes an ID. Whoever stores it before the enqueue can repeat the
// enqueue safely, however often, with WithID.
func NewID() ID { return ID(uuid.Must(uuid.NewV7())) }

// ParseID reads the canonical textual form, 8-4-4-4-12 hexadecimal digits. The
// error is an *Error with CodeInvalidArgument.
func ParseID(s string) (ID, error) {
	if len(s) == 36 {
		if id, err := uuid.Parse(s); err == nil {
			return ID(id), nil
		}
	}
	return ID{}, &Error{Code: CodeInvalidArgument, Reason: ReasonBadID, Message: fmt.Sprintf("job id %.64q is not a UUID", s)}
}

// String returns the canonical textual form.
func (id ID) String() string { return uuid.UUID(id).String() }

// IsZero reports whether id is the zero ID.
func (id ID) IsZero() bool { return id == ID{} }

// Time returns the moment the id was made, to the millisecond.
func (id ID) Time() time.Time {
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
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

// Value implements driver.Valuer: the textual form, or NULL for the zero ID.
func (id ID) Value() (driver.Value, error) {
	if id.IsZero() {
		return nil, nil
	}
	return id.String(), nil
}

// Scan implements sql.Scanner for text and for 16 bytes. NULL is the zero ID.
func (id *ID) Scan(src any) error {
	if src == nil {
		*id = ID{}
		return nil
	}
	if err := (*uuid.UUID)(id).Scan(src); err != nil {
		return fmt.Errorf("errand: scan an ID: %w", err)
	}
	return nil
}

// wireID reads an id that a server sent.
func wireID(s string) ID {
	id, _ := uuid.Parse(s) // the zero ID, for "" and for what no Errand server sends
	return ID(id)
}

func wireIDs(ids []ID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return out
}
