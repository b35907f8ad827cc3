// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// segmentName is the one segment file of a generation's tidwall/wal log: the
// library names a segment by the index of its first entry, in 20 digits.
const segmentName = "00000000000000000001"

// segment is what our own reader found in a segment file. The library never
// opens a file that it did not create itself: it has no checksums, refuses a
// torn tail whole, and reads zero bytes as empty entries.
type segment struct {
	frames []frame // the good ones from the start, up to the first bad one
	whole  bool    // every byte belongs to a good frame
	bad    error   // why the frame after the last good one is none
	rest   int64   // bytes from the first bad frame on
	// later is the highest durable_seq that any good frame behind the first bad
	// one names, 0 when there is none, or none that is surely ours.
	later Seq
}

// readSegment parses the bytes of a segment file: entries of uvarint length
// and frame. It never fails; what does not parse is described.
func readSegment(data []byte) segment {
	s := segment{whole: true}
	pos := 0
	for pos < len(data) {
		f, size, err := nextFrame(data[pos:])
		if err == nil {
			err = s.fits(&f)
		}
		if err != nil {
			s.whole, s.bad, s.rest = false, err, int64(len(data)-pos)
			s.later = laterSeq(data[pos:], secretsOf(data))
			return s
		}
		s.frames = append(s.frames, f)
		pos += size
	}
	return s
}

// fits checks that a frame may stand after the ones already read: a head
// first, then events in order, each seal repeating the last event's seq.
func (s *segment) fits(f *frame) error {
	if len(s.frames) == 0 {
		if f.flags != frameHead || f.seq.Epoch() != decodeHead(f.body).Epoch {
			return fmt.Errorf("%w: a generation begins with its head", errFrame)
		}
		return nil
	}
	last := s.frames[len(s.frames)-1]
	switch {
	case f.secret != last.secret:
		return fmt.Errorf("%w: it is not this generation's", errFrame)
	case f.flags == frameHead:
		return fmt.Errorf("%w: a second head", errFrame)
	case last.flags == frameHead:
		if f.flags != frameEvent || f.seq != last.seq {
			return fmt.Errorf("%w: seq %s where the head announces %s", errFrame, f.seq, last.seq)
		}
	case f.flags == frameSeal:
		if f.seq != last.seq {
			return fmt.Errorf("%w: a seal of seq %s after seq %s", errFrame, f.seq, last.seq)
		}
	case f.seq != last.seq.Next():
		return fmt.Errorf("%w: seq %s after %s", errFrame, f.seq, last.seq)
	}
	return nil
}

func nextFrame(data []byte) (frame, int, error) {
	size, n := binary.Uvarint(data)
	if n <= 0 {
		return frame{}, 0, fmt.Errorf("%w: no entry length", errFrame)
	}
	if size > maxFrame || size > uint64(len(data)-n) {
		return frame{}, 0, fmt.Errorf("%w: an entry of %d bytes, %d are there", errFrame, size, len(data)-n)
	}
	f, err := decodeFrame(data[n : n+int(size)])
	return f, n + int(size), err
}

// laterSeq looks for good frames of a generation anywhere in data, whatever lies
// between, and returns the highest seq that they know to be durable. (A frame's
// own seq says nothing: in a batch torn by a power loss a later frame may be whole
// and an earlier one not.) Between frames, and in torn ones, lies what clients
// stored: a frame counts only with one of the secrets. Earlier builds wrote none;
// then the frames behind say nothing.
func laterSeq(data []byte, secrets []uint64) Seq {
	var later Seq
	for len(secrets) > 0 {
		i := bytes.Index(data, []byte(frameMagic))
		if i < 0 || len(data)-i < frameHeader+secretSize+frameTrailer {
			return later
		}
		data = data[i:]
		size := uint64(binary.LittleEndian.Uint32(data[44:]))
		if slices.Contains(secrets, secretAt(data)) && size <= uint64(len(data)) {
			if f, err := decodeFrame(data[:size]); err == nil {
				later = max(later, f.durable)
			}
		}
		data = data[1:]
	}
	return later
}

// headEntry is how long the first entry of a segment is.
const headEntry = 1 + frameHeader + secretSize + headSize + frameTrailer

// secretsOf returns the generation's secret as its first two frames have it, which
// stand at known places, in front of everything that a client stored. One of them
// may have rotted.
func secretsOf(data []byte) (secrets []uint64) {
	for _, at := range []int{0, headEntry} {
		if at >= len(data) {
			break
		}
		_, n := binary.Uvarint(data[at:])
		if secret := secretAt(data[min(len(data), at+max(n, 0)):]); secret != 0 {
			secrets = append(secrets, secret)
		}
	}
	return secrets
}

// secretAt returns the secret of the frame with which data begins, good or not;
// 0 when none begins there, or an earlier build wrote it.
func secretAt(data []byte) uint64 {
	if len(data) < frameHeader+secretSize || string(data[:len(frameMagic)]) != frameMagic || data[4] <= frameSecret {
		return 0
	}
	return binary.LittleEndian.Uint64(data[frameHeader:])
}
