// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"errors"
	"fmt"
	"strconv"

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

// A second subject tells how far the log is committed, before the events that
// were committed since it told so last:
//
//	subject  strandline-committed.<log id>
//	body     the seq, as a plain integer
//
// It is what wakes this server's own views.
const (
	subjectRoot   = "strandline."
	committedRoot = "strandline-committed."
)

// subjects are those of one log.
type subjects struct {
	prefix    string // of its events' subjects, with the dot at its end
	committed string
}

func subjectsOf(log eventlog.ID) subjects {
	return subjects{prefix: subjectRoot + log.String() + ".", committed: committedRoot + log.String()}
}

// events matches every event of the log.
func (s subjects) events() string { return s.prefix + ">" }

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

// committedMessage says that the log is committed up to seq.
func (s subjects) committedMessage(seq eventlog.Seq) *nats.Msg {
	return &nats.Msg{Subject: s.committed, Data: strconv.AppendUint(nil, uint64(seq), 10)}
}

// maxDigits is the length of the longest seq.
const maxDigits = 20

var errForeign = errors.New("not the committed seq of this log")

// hint reads from a message which seq it claims. That it can be read does not
// say that it is true.
func (s subjects) hint(msg *nats.Msg) (eventlog.Seq, error) {
	if msg.Subject != s.committed {
		return 0, fmt.Errorf("%w: subject %q", errForeign, msg.Subject)
	}
	if len(msg.Data) > maxDigits {
		return 0, fmt.Errorf("%w: a body of %d bytes", errForeign, len(msg.Data))
	}
	n, err := strconv.ParseUint(string(msg.Data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: seq: %w", errForeign, err)
	}
	if seq := eventlog.Seq(n); seq.Valid() {
		return seq, nil
	}
	return 0, fmt.Errorf("%w: seq %d is no event's number", errForeign, n)
}
