// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/strandline-project/strandline/eventlog"
)

func message(seq eventlog.Seq) *nats.Msg {
	return subjectsOf(testLog).message(newsOf(entryAt(seq), at))
}

func TestAMessageSaysWhatTheEventIs(t *testing.T) {
	msg := message(at + 1)
	if want := "strandline.ab010203-0000-0000-0000-000000000000.block_stored.4294967300"; msg.Subject != want {
		t.Errorf("subject %q, want %q", msg.Subject, want)
	}
	for header, want := range map[string]string{
		HeaderSeq: "30064771173", HeaderType: "block_stored", HeaderArchived: "30064771172",
	} {
		if got := msg.Header.Get(header); got != want {
			t.Errorf("header %s is %q, want %q", header, got, want)
		}
	}
	if !bytes.Equal(msg.Data, entryAt(at+1).Raw) {
		t.Error("the body is not the event as it was committed")
	}
	if seq, err := subjectsOf(testLog).hint(msg); err != nil || seq != at+1 {
		t.Errorf("reads back as %s, %v", seq, err)
	}
}

func TestAnEventWithoutMachineHasSubjectZero(t *testing.T) {
	entry := &eventlog.Entry{Event: eventlog.Event{Seq: at, Type: eventlog.StateRecorded}, Raw: []byte{8, 1}}
	msg := subjectsOf(testLog).message(newsOf(entry, 0))
	if !strings.HasSuffix(msg.Subject, ".state_recorded.0") || msg.Header.Get(HeaderArchived) != "0" {
		t.Errorf("subject %q, archived %q", msg.Subject, msg.Header.Get(HeaderArchived))
	}
}

func TestAMessageIsRefused(t *testing.T) {
	tests := map[string]func(*nats.Msg){
		"with another log's subject":     func(m *nats.Msg) { m.Subject = strings.Replace(m.Subject, "ab01", "ab02", 1) },
		"without the root":               func(m *nats.Msg) { m.Subject = m.Subject[1:] },
		"with another type in its head":  func(m *nats.Msg) { m.Header.Set(HeaderType, "block_deleted") },
		"without a machine":              func(m *nats.Msg) { m.Subject = m.Subject[:strings.LastIndex(m.Subject, ".")] },
		"with a machine that is no seq":  func(m *nats.Msg) { m.Subject += "x" },
		"without headers":                func(m *nats.Msg) { m.Header = nil },
		"without a checksum":             func(m *nats.Msg) { m.Header.Del(HeaderChecksum) },
		"with a wrong checksum":          func(m *nats.Msg) { m.Header.Set(HeaderChecksum, "00000000") },
		"with a checksum of 40 bits":     func(m *nats.Msg) { m.Header.Set(HeaderChecksum, "1200000000") },
		"with a flipped bit in its body": func(m *nats.Msg) { m.Data[3] ^= 4 },
		"with an empty body":             func(m *nats.Msg) { m.Data = nil },
		"with a body over the limit":     func(m *nats.Msg) { m.Data = make([]byte, eventlog.MaxEvent+1) },
		"without a seq":                  func(m *nats.Msg) { m.Header.Del(HeaderSeq) },
		"with a dotted seq":              func(m *nats.Msg) { m.Header.Set(HeaderSeq, "7.100") },
		"with seq 0":                     func(m *nats.Msg) { m.Header.Set(HeaderSeq, "0") },
		"with a seq without epoch":       func(m *nats.Msg) { m.Header.Set(HeaderSeq, "12") },
		"with a seq over 64 bits":        func(m *nats.Msg) { m.Header.Set(HeaderSeq, "18446744073709551616") },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			msg := message(at)
			spoil(msg)
			if seq, err := subjectsOf(testLog).hint(msg); !errors.Is(err, errForeign) {
				t.Errorf("got %s, %v, want a refusal", seq, err)
			}
		})
	}
}

func FuzzHint(f *testing.F) {
	m := message(at)
	f.Add(m.Subject, m.Header.Get(HeaderSeq), m.Header.Get(HeaderType), m.Header.Get(HeaderChecksum), m.Data)
	f.Add("strandline..", "", "", "", []byte{})
	f.Add(m.Subject, "18446744073709551615", "block_stored", "ffffffff", []byte{0})
	f.Fuzz(func(t *testing.T, subject, seq, kind, sum string, body []byte) {
		msg := &nats.Msg{Subject: subject, Data: body, Header: nats.Header{
			HeaderSeq: {seq}, HeaderType: {kind}, HeaderChecksum: {sum},
		}}
		got, err := subjectsOf(testLog).hint(msg)
		if err == nil && (!got.Valid() || !strings.HasPrefix(subject, subjectsOf(testLog).prefix)) {
			t.Errorf("accepted %s from subject %q", got, subject)
		}
		if err != nil && (got != 0 || !errors.Is(err, errForeign)) {
			t.Errorf("refused with %s, %v", got, err)
		}
	})
}
