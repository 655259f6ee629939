package api

import (
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"

	"github.com/errandhq/errand/job"
)

// pageVersion begins a page token, so that a later form can tell the old ones.
const pageVersion = 1

// A page token is base64url of: version, check (8 bytes), id (16), done (8).
const pageSize = 1 + 8 + 16 + 8

// maxPageToken bounds what is decoded at all.
const maxPageToken = 256

// page is where a list goes on: after an id, with so many done before.
type page struct {
	after job.ID
	done  int
}

// scope names the query that a page token belongs to: the call and every
// parameter that chooses what is listed.
type scope []string

// check ties a position to its query. It is no signature: a forged token
// gives its maker no more than a query of the same rights.
func (s scope) check(body []byte) uint64 {
	h := fnv.New64a()
	var n [8]byte
	for _, part := range s {
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	h.Write(body)
	return h.Sum64()
}

// encodePage makes the token for the page after p; "" where the list is done.
func (s scope) encodePage(p page) string {
	if p.after.IsZero() {
		return ""
	}
	b := make([]byte, pageSize)
	b[0] = pageVersion
	copy(b[9:25], p.after[:])
	binary.BigEndian.PutUint64(b[25:], uint64(p.done))
	binary.BigEndian.PutUint64(b[1:9], s.check(b[9:]))
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodePage reads a token that encodePage made for the same query. "" is the
// beginning.
func (s scope) decodePage(token string) (page, error) {
	if token == "" {
		return page{}, nil
	}
	bad := job.Errorf(job.InvalidArgument, job.ReasonBadPageToken,
		"page_token: is not one that this query was given: leave it out to begin anew")
	if len(token) > maxPageToken {
		return page{}, bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) != pageSize || b[0] != pageVersion {
		return page{}, bad
	}
	if binary.BigEndian.Uint64(b[1:9]) != s.check(b[9:]) {
		return page{}, bad
	}
	done := binary.BigEndian.Uint64(b[25:])
	if done > 1<<40 {
		return page{}, bad
	}
	p := page{done: int(done)}
	copy(p.after[:], b[9:25])
	return p, nil
}
