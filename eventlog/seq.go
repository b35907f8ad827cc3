// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Seq is the sequence number of an event: the epoch in the high 32 bits, the
// counter in the low 32. Counters begin at 1 in every epoch and have no gap
// inside one; epochs may be skipped. No Seq is ever issued twice, because
// every start of a server claims a new epoch in the archive before it issues
// one.
//
// The zero Seq is no event's number. It stands for "none" where a field is
// optional (a machine's event without a transaction, say) and for "before the
// first event" as a position; it never stands for "not known".
type Seq uint64

// FirstSeq is the number of the first event of every log: epoch 1, counter 1.
const FirstSeq = Seq(1<<32 | 1)

// MakeSeq returns the sequence number of the counter-th event of an epoch.
func MakeSeq(epoch, counter uint32) Seq { return Seq(uint64(epoch)<<32 | uint64(counter)) }

// Epoch returns the epoch that issued s.
func (s Seq) Epoch() uint32 { return uint32(s >> 32) }

// Counter returns the place of s within its epoch, counted from 1.
func (s Seq) Counter() uint32 { return uint32(s) }

// Valid reports whether s can be an event's number: epoch and counter both
// begin at 1.
func (s Seq) Valid() bool { return s.Epoch() != 0 && s.Counter() != 0 }

// Next returns the number after s in the same epoch. It is the caller's
// business never to go past the last counter; see Exhausted.
func (s Seq) Next() Seq { return s + 1 }

// Exhausted reports whether the epoch of s has no number after it.
func (s Seq) Exhausted() bool { return s.Counter() == math.MaxUint32 }

// Follows reports whether s may stand right after prev in a log: the next
// counter of the same epoch, or the first counter of any later epoch. After
// the zero Seq only FirstSeq may stand.
func (s Seq) Follows(prev Seq) bool {
	if prev == 0 {
		return s == FirstSeq
	}
	if s.Epoch() == prev.Epoch() {
		return s == prev+1 && s.Counter() != 0
	}
	return s.Epoch() > prev.Epoch() && s.Counter() == 1
}

// String prints s for people, as epoch.counter: "7.1234".
func (s Seq) String() string {
	return strconv.FormatUint(uint64(s.Epoch()), 10) + "." + strconv.FormatUint(uint64(s.Counter()), 10)
}

// ParseSeq reads both printed forms of a sequence number, "7.1234" and the
// plain integer "30064772306". It accepts only numbers that Valid does.
func ParseSeq(text string) (Seq, error) {
	seq, err := parseSeq(text)
	if err != nil {
		return 0, fmt.Errorf("sequence number %q: %w; write epoch.counter (7.1234) or the plain integer", text, err)
	}
	if !seq.Valid() {
		return 0, fmt.Errorf("sequence number %q: epoch and counter both begin at 1; the first event of a log is 1.1", text)
	}
	return seq, nil
}

func parseSeq(text string) (Seq, error) {
	epochText, counterText, dotted := strings.Cut(text, ".")
	if !dotted {
		n, err := strconv.ParseUint(text, 10, 64)
		return Seq(n), err
	}
	epoch, err := strconv.ParseUint(epochText, 10, 32)
	if err != nil {
		return 0, err
	}
	counter, err := strconv.ParseUint(counterText, 10, 32)
	if err != nil {
		return 0, err
	}
	return MakeSeq(uint32(epoch), uint32(counter)), nil
}

// Range is a closed range of sequence numbers, First and Last included.
type Range struct{ First, Last Seq }

// Contains reports whether seq lies in r.
func (r Range) Contains(seq Seq) bool { return r.First <= seq && seq <= r.Last }

// String prints r for people: "7.1-7.99".
func (r Range) String() string { return r.First.String() + "-" + r.Last.String() }
