package rediscache

import (
	"context"
	_ "embed" // the script
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/errandhq/errand/internal/cache"
	"github.com/errandhq/errand/job"
)

// Blocks. A key of its own costs Redis five to eight microseconds for each job. So while nobody
// listens, what a job came to for good (cache.Entry.Lasting) is appended to a block: one value for the jobs
// that were made in the same moment and have the same hash tag. Nothing but a tombstone ever changes such an
// entry, so that appending needs no look at what is held, and a block grows no further than its jobs are many. Whoever
// reads a job takes the newest of what its own key and its block say.
//
// A tombstone has a key of its own, and closes the block, for as long as it lives: what was in it is lost, and what comes late gets keys of their
// own, which the script of put compares with the tombstone. Else a success in the block would be served once the tombstone was evicted.
// In a cluster it is never known that nobody listens, so that there are no blocks.

const (
	// blockSpan is the number of bits of the milliseconds in an id that its block does not
	// tell apart. It is part of the blocks' keys.
	blockSpan = 4
	// maxBlock is the length from which on a block takes no more: whoever asks for one job is sent all of it.
	maxBlock = 32 << 10
)

// closedBlock is the value of a closed block, no record of which can be read.
const closedBlock = "\x00"

//go:embed block.lua
var blockText string

var blockScript = rueidis.NewLuaScript(blockText)

// blockOf numbers the blocks: those of one moment follow one another.
func blockOf(id job.ID) uint64 {
	ms := binary.BigEndian.Uint64(id[:8]) >> 16
	return ms>>blockSpan*shards + uint64(shardOf(id))
}

// blockKey is the key of the block that a job may be in.
func blockKey(tag string, id job.ID) string {
	b := append(append(make([]byte, 0, 64), tag...), ":+"...)
	return string(strconv.AppendUint(b, blockOf(id)/shards, 16))
}

// blocks is one run of the script.
type blocks struct {
	at   map[uint64]int // in list, by blockOf
	list []block
	ttl  time.Duration
}

type block struct {
	key     string
	text    []byte
	entries []*cache.Entry
}

// add takes e if it may be part of a block. What was only read may be read again and again.
func (b *blocks) add(c *Cache, e *cache.Entry) bool {
	if !e.Lasting() || !e.Tell || e.TTL < time.Millisecond || b.ttl != 0 && e.TTL != b.ttl {
		return false
	}
	if b.at == nil {
		b.at = map[uint64]int{}
	}
	n := blockOf(e.ID)
	i, ok := b.at[n]
	if !ok {
		i = len(b.list)
		b.at[n], b.list = i, append(b.list, block{key: blockKey(c.tags[shardOf(e.ID)], e.ID)})
	}
	at := &b.list[i]
	text, err := appendRecord(at.text, e)
	if err != nil {
		return false
	}
	at.text, at.entries, b.ttl = text, append(at.entries, e), e.TTL
	return true
}

// run calls the script.
func (b *blocks) run(ctx context.Context, c *Cache, client rueidis.Client) rueidis.RedisResult {
	// Who begins to listen just now is told that there was something.
	args := []string{c.news, c.origin + "\n", strconv.FormatInt(b.ttl.Milliseconds(), 10), strconv.Itoa(maxBlock)}
	keys := make([]string, len(b.list))
	for i := range b.list {
		keys[i], args = b.list[i].key, append(args, string(b.list[i].text))
	}
	return blockScript.Exec(ctx, client, keys, args)
}

// putBlocks writes them, and returns the entries that must have keys of their own: their block is full or
// too old, or Redis refuses the script.
func (c *Cache) putBlocks(ctx context.Context, client rueidis.Client, b *blocks) (left []*cache.Entry, err error) {
	if len(b.list) == 0 {
		return nil, nil
	}
	answer, err := b.run(ctx, c, client).AsIntSlice()
	if _, refused := rueidis.IsRedisErr(err); refused { // such as by the rights of its user, who had no blocks before
		for i := range b.list {
			left = append(left, b.list[i].entries...)
		}
		return left, nil
	}
	if err != nil {
		return nil, fmt.Errorf("redis: put: %w", err)
	}
	c.toldTo(client, answer[0])
	for _, n := range answer[1:] {
		left = append(left, b.list[n-1].entries...)
	}
	return left, nil
}

// closeBlocks closes blocks, whose keys come with times-to-live. A full Redis refuses that, and removes them all the same.
func (c *Cache) closeBlocks(ctx context.Context, client rueidis.Client, blocks map[string]time.Duration) error {
	if len(blocks) == 0 || client.Mode() == rueidis.ClientModeCluster {
		return nil
	}
	keys, cmds := make([]string, 0, len(blocks)), make(rueidis.Commands, 0, len(blocks))
	for key, ttl := range blocks {
		keys, cmds = append(keys, key), append(cmds, client.B().Set().Key(key).Value(closedBlock).Px(ttl).Build())
	}
	for i, r := range client.DoMulti(ctx, cmds...) {
		err := r.Error()
		if isFull(err) {
			err = client.Do(ctx, client.B().Del().Key(keys[i]).Build()).Error()
		}
		if err != nil {
			return fmt.Errorf("redis: put: %w", err)
		}
	}
	return nil
}

// appendRecord appends an entry as blocks have it: its length, version, time and body.
func appendRecord(to []byte, e *cache.Entry) ([]byte, error) {
	at := e.At.UnixMicro()
	if e.Version < 0 || at < 0 {
		return nil, fmt.Errorf("redis: job %s has version %d at %s", e.ID, e.Version, e.At)
	}
	var room [256]byte
	body := appendBody(room[:0], e)
	to = binary.AppendUvarint(to, uint64(recordHead+len(body)))
	to = binary.BigEndian.AppendUint64(to, uint64(e.Version))
	to = binary.BigEndian.AppendUint64(to, uint64(at))
	return append(to, body...), nil
}

const recordHead = 16 // version and time

// readBlock calls fn with the records of the jobs that wanted accepts. What another version wrote, or
// a block that is broken, is as good as nothing.
func readBlock(b []byte, wanted func(job.ID) bool, fn func(cache.Entry)) {
	for len(b) > 0 {
		length, n := binary.Uvarint(b)
		if n <= 0 || length > uint64(len(b)-n) || length < recordHead+uint64(len(job.ID{})) {
			return
		}
		record := b[n : n+int(length)]
		b = b[n+int(length):]
		if !wanted(job.ID(record[recordHead:])) {
			continue
		}
		version, at := binary.BigEndian.Uint64(record), binary.BigEndian.Uint64(record[8:])
		if version > math.MaxInt64 || at > math.MaxInt64 {
			continue
		}
		if e, ok := decodeBody(record[recordHead:]); ok {
			e.Version, e.At = int64(version), time.UnixMicro(int64(at)).UTC()
			fn(e)
		}
	}
}
