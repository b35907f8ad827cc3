// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// frameSamples are one frame of each flag, and the extremes.
func frameSamples() map[string]frame {
	head := Head{LogID: testLogID, Writer: testWriter, Epoch: 7, Ordinal: 42}
	ev := Event{Seq: MakeSeq(7, 1234), Type: AccountOpened, Account: MakeSeq(7, 1234), Name: "alice", Time: 1}
	return map[string]frame{
		"event":                            {flags: frameEvent, seq: ev.Seq, durable: ev.Seq - 1, body: AppendEvent(nil, &ev)},
		"event with payload":               {flags: frameEvent, seq: ev.Seq, durable: ev.Seq - 9, offset: 8, length: ChunkSize + 1, body: AppendEvent(nil, &ev), sums: []byte{1, 2, 3, 4, 5, 6, 7, 8}},
		"event that carries":               {flags: frameEvent, seq: ev.Seq, durable: ev.Seq - 9, offset: 8, length: 5, body: AppendEvent(nil, &ev), sums: []byte{1, 2, 3, 4}, payload: []byte("bytes")},
		"event with a secret":              {flags: frameEvent, secret: 1 << 60, seq: ev.Seq, durable: ev.Seq - 1, body: AppendEvent(nil, &ev)},
		"event with a secret that carries": {flags: frameEvent, secret: 7, seq: ev.Seq, durable: ev.Seq - 9, offset: 8, length: 5, body: AppendEvent(nil, &ev), sums: []byte{1, 2, 3, 4}, payload: []byte("bytes")},
		"seal with a secret":               {flags: frameSeal, secret: 1<<64 - 1, seq: ev.Seq, durable: ev.Seq},
		"head":                             {flags: frameHead, seq: ev.Seq, durable: MakeSeq(6, 9), body: appendHead(nil, &head)},
		"seal":                             {flags: frameSeal, seq: ev.Seq, durable: ev.Seq},
		"the last seq":                     {flags: frameSeal, seq: MakeSeq(1<<32-1, 1<<32-1), durable: MakeSeq(1, 1)},
	}
}

func TestAFrameComesBackAsItWas(t *testing.T) {
	for name, want := range frameSamples() {
		raw := appendFrame([]byte("before"), &want)[len("before"):]
		got, err := decodeFrame(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.flags != want.flags || got.seq != want.seq || got.secret != want.secret || got.durable != want.durable || got.offset != want.offset ||
			got.length != want.length || !bytes.Equal(got.body, want.body) || !bytes.Equal(got.sums, want.sums) || !bytes.Equal(got.payload, want.payload) || len(raw) != want.size() {
			t.Errorf("%s came back as %+v", name, got)
		}
	}
}

func TestAFrameGoldens(t *testing.T) {
	var text bytes.Buffer
	samples := frameSamples()
	for _, name := range []string{"event", "event with payload", "event that carries", "head", "seal", "the last seq"} {
		f := samples[name]
		fmt.Fprintf(&text, "%s\n%s\n", name, hex.Dump(appendFrame(nil, &f)))
	}
	golden(t, "frames.hex", text.Bytes())
	text.Reset()
	for _, name := range []string{"event with a secret", "event with a secret that carries", "seal with a secret"} {
		f := samples[name]
		fmt.Fprintf(&text, "%s\n%s\n", name, hex.Dump(appendFrame(nil, &f)))
	}
	golden(t, "frames-secret.hex", text.Bytes())
}

// patched is the seal with some bytes changed and the checksum made good, as
// a buggy writer would make it.
func patched(f frame, at int, b ...byte) []byte {
	raw := appendFrame(nil, &f)
	copy(raw[at:], b)
	sum := Checksum(raw[:len(raw)-frameTrailer])
	copy(raw[len(raw)-frameTrailer:], []byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)})
	return raw
}

func TestWhatIsNoFrameIsRefused(t *testing.T) {
	samples := frameSamples()
	seal, event, apart, carries := samples["seal"], samples["event"], samples["event with payload"], samples["event that carries"]
	secret := samples["event with a secret"]
	tests := []struct {
		name string
		raw  []byte
		want error
	}{
		{"nothing", nil, errFrame},
		{"zeros", make([]byte, 100), errFrame},
		{"another magic", patched(seal, 0, 'X'), errFrame},
		{"the next version", patched(seal, 4, frameCarries+frameSecret+1), errFrameVersion},
		{"version 0", patched(seal, 4, 0), errFrameVersion},
		{"a secret that is said to be there", patched(seal, 4, frameVersion+frameSecret), errFrame},
		{"a secret that is not said to be there", patched(secret, 4, frameVersion), errFrame},
		{"the secret 0", patched(secret, frameHeader, make([]byte, secretSize)...), errFrame},
		{"a seal that carries", patched(seal, 4, frameCarries), errFrame},
		{"a head that carries", patched(carries, 5, frameHead), errFrame},
		{"a payload that is said to be carried", patched(apart, 4, frameCarries), errFrame},
		{"a payload that is not said to be carried", patched(carries, 4, frameVersion), errFrame},
		{"a carried payload of another length", patched(carries, 32, 6), errFrame},
		{"no flag", patched(seal, 5, 0), errFrame},
		{"two flags", patched(seal, 5, frameSeal|frameEvent), errFrame},
		{"reserved bytes", patched(seal, 6, 1), errFrame},
		{"no seq", patched(seal, 8, make([]byte, 8)...), errFrame},
		{"a seq without a counter", patched(seal, 8, 0, 0, 0, 0), errFrame},
		{"a seal with a payload", patched(event, 5, frameSeal), errFrame},
		{"a head of another size", patched(event, 5, frameHead), errFrame},
		{"a length that is not its own", patched(seal, 44, 53), errFrame},
		{"a body longer than the frame", patched(seal, 40, 1), errFrame},
		{"a payload over the limit", patched(seal, 32, 0, 0, 0, 0, 0, 1), errFrame},
		{"one byte less", appendFrame(nil, &seal)[:seal.size()-1], errFrame},
		{"one byte more", append(appendFrame(nil, &seal), 0), errFrame},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := decodeFrame(tt.raw); !errors.Is(err, tt.want) {
				t.Errorf("it gives %v, want %v", err, tt.want)
			}
		})
	}
}

func TestFramesOfASegmentMustFitEachOther(t *testing.T) {
	event := func(counter uint32) []byte {
		ev := Event{Seq: MakeSeq(1, counter), Type: AccountOpened, Account: 1, Name: "a"}
		return appendEntryOf(nil, &frame{flags: frameEvent, secret: testSecret, seq: ev.Seq, body: AppendEvent(nil, &ev)})
	}
	seal := func(counter uint32) []byte { return sealOf(MakeSeq(1, counter)) }
	head := func(epoch, counter uint32) []byte {
		h := Head{LogID: testLogID, Writer: testWriter, Epoch: 1, Ordinal: 1}
		return appendEntryOf(nil, &frame{flags: frameHead, secret: testSecret, seq: MakeSeq(epoch, counter), body: appendHead(nil, &h)})
	}
	tests := []struct {
		name string
		data []byte
		good int
	}{
		{"head, events, seals", join(head(1, 5), event(5), event(6), seal(6), event(7), seal(7), seal(7)), 7},
		{"no head", event(1), 0},
		{"a head of another epoch than its event", head(2, 1), 0},
		{"two heads", join(head(1, 1), head(1, 1)), 1},
		{"another event than the head announces", join(head(1, 1), event(2)), 1},
		{"a seal before any event", join(head(1, 1), seal(1)), 1},
		{"a hole", join(head(1, 1), event(1), event(3)), 2},
		{"an event twice", join(head(1, 1), event(1), event(1)), 2},
		{"a seal of another event", join(head(1, 1), event(1), seal(2)), 2},
		{"another generation's seal", join(head(1, 1), event(1), secretSealOf(0, MakeSeq(1, 1))), 2},
		{"a head again", join(head(1, 1), event(1), head(1, 2)), 2},
		{"an empty entry", join(head(1, 1), event(1), []byte{0}), 2},
		{"a length without an end", join(head(1, 1), bytes.Repeat([]byte{0xff}, 20)), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := readSegment(tt.data)
			if len(s.frames) != tt.good || s.whole != (tt.good == len(frameEnds(tt.data)) && s.rest == 0) || s.whole == (s.bad != nil) {
				t.Errorf("%d frames are good, whole %v, %v; want %d", len(s.frames), s.whole, s.bad, tt.good)
			}
		})
	}
}

// goldenGeneration makes a generation that is the same in every run: in a
// bubble the clock stands still.
func goldenGeneration(t *testing.T) (segment, payload []byte) {
	t.Helper()
	random := newSecret
	newSecret = func() uint64 { return testSecret }
	defer func() { newSecret = random }()
	synctest.Test(t, func(t *testing.T) {
		s := newState(t)
		l := s.open(nil)
		committed(t, l.Append(Event{Type: AccountOpened, Actor: "operator", Name: "alice"}, nil))
		committed(t, store(t, l, []byte("the first block")))
		committed(t, store(t, l, bytes.Repeat([]byte("seventeen bytes. "), 5000)))
		time.Sleep(time.Second) // the seal
		must(t, l.Close(true))
		var err error
		dir := filepath.Join(s.wal(), generationName(1, 0))
		segment, err = os.ReadFile(filepath.Join(dir, segmentName))
		must(t, err)
		payload, err = os.ReadFile(filepath.Join(dir, payloadName))
		must(t, err)
	})
	return segment, payload
}

// The frames are compared byte for byte. Of the object only what stands before
// the footer is: how small zstd makes a footer may change, what it holds not.
func TestAGenerationGoldens(t *testing.T) {
	segment, payload := goldenGeneration(t)
	trailer, err := DecodeTrailer(payload[len(payload)-TrailerSize:])
	must(t, err)
	body := payload[:trailer.FooterOffset]
	golden(t, "generation-secret.hex", []byte(fmt.Sprintf("%s\n%s%s\n%d bytes, CRC32C %08x\n", segmentName, hex.Dump(segment), payloadName, len(body), Checksum(body))))
}

func TestAGoldenGenerationIsReadWithoutItsTrailer(t *testing.T) {
	_, payload := goldenGeneration(t)
	for _, name := range []string{
		"generation-secret.hex", // as it is written today
		"generation.hex",        // written before frames had a secret
		"generation-apart.hex",  // and before they carried anything
	} {
		t.Run(name, func(t *testing.T) { readGolden(t, name, payload) })
	}
}

func readGolden(t *testing.T, name string, payload []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	must(t, err)
	dump, _, _ := strings.Cut(strings.TrimPrefix(string(text), segmentName+"\n"), payloadName)
	var segment []byte
	for line := range strings.Lines(dump) {
		if len(line) < 60 {
			continue // the length, last
		}
		raw, err := hex.DecodeString(strings.ReplaceAll(line[10:58], " ", ""))
		must(t, err)
		segment = append(segment, raw...)
	}
	s := newState(t)
	s.lay(gen{name: "1.0", segment: segment, payload: payload[:len(payload)-TrailerSize]})
	l := s.open(nil)
	entries := collect(t, l, FirstSeq)
	if len(entries) != 3 || string(readBlock(t, l, entries[1])) != "the first block" {
		t.Errorf("%d events came back", len(entries))
	}
	must(t, l.Close(false))
}

func FuzzDecodeFrame(f *testing.F) {
	for _, sample := range frameSamples() {
		f.Add(appendFrame(nil, &sample))
	}
	for _, b := range forgeries() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := decodeFrame(raw)
		if err != nil {
			return
		}
		if again := appendFrame(nil, &got); !bytes.Equal(again, raw) {
			t.Errorf("%x decodes, and is encoded as %x", raw, again)
		}
	})
}

func FuzzReadSegment(f *testing.F) {
	whole := segmentOf(1, MakeSeq(1, 1), MakeSeq(1, 3))
	f.Add(whole)
	f.Add(join(whole, sealOf(MakeSeq(1, 3))))
	f.Add(tornInside(whole))
	f.Add(join(whole, make([]byte, 512)))
	f.Add(newerFrame(whole))
	for _, b := range forgeries() {
		f.Add(b)
		f.Add(join(whole, b))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := readSegment(data)
		size := 0
		for i := range s.frames {
			fr := &s.frames[i]
			size += len(appendEntryOf(nil, fr))
			if i > 1 && fr.seq != s.frames[i-1].seq && fr.seq != s.frames[i-1].seq+1 {
				t.Errorf("frame %d is %s, after %s", i, fr.seq, s.frames[i-1].seq)
			}
		}
		// A length may be written in more bytes than it needs, so size is a lower bound.
		if size > len(data)-int(s.rest) || s.whole != (s.rest == 0) {
			t.Errorf("%d bytes of good frames, %d of bad ones, %d in all", size, s.rest, len(data))
		}
	})
}
