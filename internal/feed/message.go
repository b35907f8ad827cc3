// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/strandline-project/strandline/eventlog"
)

// A message on the feed:
//
//	subject  strandline.<log id>.<type>.<machine id, 0 if none>
//	headers  the four below
//	body     the event's wire form (event.proto), as it was committed
//
// Consumers read up to the archived watermark by default: what lies between
// it and the message's own seq can still be lost with the server's machine.
const (
	HeaderSeq      = "Strandline-Seq"      // of the event, as a plain integer
	HeaderType     = "Strandline-Type"     // its type by name
	HeaderArchived = "Strandline-Archived" // archived watermark when it was published, plain integer, 0 for none
	HeaderChecksum = "Strandline-Crc32c"   // CRC32C of the body, 8 hexadecimal digits
)

const subjectRoot = "strandline."

// subjects are those of one log.
type subjects struct{ prefix string } // with the dot at its end

func subjectsOf(log eventlog.ID) subjects { return subjects{subjectRoot + log.String() + "."} }

// all matches every event of the log.
func (s subjects) all() string { return s.prefix + ">" }

func (s subjects) of(n news) string {
	return s.prefix + n.kind.String() + "." + strconv.FormatUint(uint64(n.machine), 10)
}

func (s subjects) message(n news) *nats.Msg {
	return &nats.Msg{
		Subject: s.of(n),
		Data:    n.raw,
		Header: nats.Header{
			HeaderSeq:      {strconv.FormatUint(uint64(n.seq), 10)},
			HeaderType:     {n.kind.String()},
			HeaderArchived: {strconv.FormatUint(uint64(n.archived), 10)},
			HeaderChecksum: {fmt.Sprintf("%08x", eventlog.Checksum(n.raw))},
		},
	}
}

var errForeign = errors.New("not an event of this log")

// hint reads from a message which seq it claims. That its checksum matches
// says that it was not mangled on its way, not that it is true.
func (s subjects) hint(msg *nats.Msg) (eventlog.Seq, error) {
	name, ok := strings.CutPrefix(msg.Subject, s.prefix)
	if !ok {
		return 0, fmt.Errorf("%w: subject %q", errForeign, msg.Subject)
	}
	if len(msg.Data) == 0 || len(msg.Data) > eventlog.MaxEvent {
		return 0, fmt.Errorf("%w: a body of %d bytes", errForeign, len(msg.Data))
	}
	kind, machine, _ := strings.Cut(name, ".")
	if kind != msg.Header.Get(HeaderType) {
		return 0, fmt.Errorf("%w: subject %q with the type %q", errForeign, msg.Subject, msg.Header.Get(HeaderType))
	}
	if _, err := strconv.ParseUint(machine, 10, 64); err != nil {
		return 0, fmt.Errorf("%w: the machine in subject %q: %w", errForeign, msg.Subject, err)
	}
	sum, err := strconv.ParseUint(msg.Header.Get(HeaderChecksum), 16, crc32.Size*8)
	if err != nil {
		return 0, fmt.Errorf("%w: checksum: %w", errForeign, err)
	}
	if got := eventlog.Checksum(msg.Data); got != uint32(sum) {
		return 0, fmt.Errorf("%w: checksum %08x, want %08x", errForeign, got, sum)
	}
	n, err := strconv.ParseUint(msg.Header.Get(HeaderSeq), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: seq: %w", errForeign, err)
	}
	if seq := eventlog.Seq(n); seq.Valid() {
		return seq, nil
	}
	return 0, fmt.Errorf("%w: seq %d is no event's number", errForeign, n)
}
