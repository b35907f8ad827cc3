// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bytes"
	"errors"
	"fmt"
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
	if got := msg.Header.Get(HeaderChecksum); got != fmt.Sprintf("%08x", eventlog.Checksum(msg.Data)) {
		t.Errorf("checksum %q", got)
	}
}

func TestAMessageSaysHowFarTheLogIsCommitted(t *testing.T) {
	msg := subjectsOf(testLog).committedMessage(at + 1)
	if msg.Subject != "strandline-committed.ab010203-0000-0000-0000-000000000000" || string(msg.Data) != "30064771173" {
		t.Errorf("subject %q, body %q", msg.Subject, msg.Data)
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
		"with another log's subject": func(m *nats.Msg) { m.Subject = strings.Replace(m.Subject, "ab01", "ab02", 1) },
		"without the root":           func(m *nats.Msg) { m.Subject = m.Subject[1:] },
		"of an event":                func(m *nats.Msg) { m.Subject = message(at).Subject },
		"with a body over the limit": func(m *nats.Msg) { m.Data = []byte(strings.Repeat("0", 21) + string(m.Data)) },
		"with an empty body":         func(m *nats.Msg) { m.Data = nil },
		"with a dotted seq":          func(m *nats.Msg) { m.Data = []byte("7.100") },
		"with something behind it":   func(m *nats.Msg) { m.Data = append(m.Data, '\n') },
		"with a sign":                func(m *nats.Msg) { m.Data = append([]byte("+"), m.Data...) },
		"with seq 0":                 func(m *nats.Msg) { m.Data = []byte("0") },
		"with a seq without epoch":   func(m *nats.Msg) { m.Data = []byte("12") },
		"with a seq over 64 bits":    func(m *nats.Msg) { m.Data = []byte("18446744073709551616") },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			msg := subjectsOf(testLog).committedMessage(at)
			spoil(msg)
			if seq, err := subjectsOf(testLog).hint(msg); !errors.Is(err, errForeign) {
				t.Errorf("got %s, %v, want a refusal", seq, err)
			}
		})
	}
}

func FuzzHint(f *testing.F) {
	m := subjectsOf(testLog).committedMessage(at)
	f.Add(m.Subject, m.Data)
	f.Add("strandline-committed.", []byte{})
	f.Add(m.Subject, []byte("18446744073709551615"))
	f.Fuzz(func(t *testing.T, subject string, body []byte) {
		got, err := subjectsOf(testLog).hint(&nats.Msg{Subject: subject, Data: body})
		if err == nil && (!got.Valid() || subject != m.Subject) {
			t.Errorf("accepted %s from subject %q", got, subject)
		}
		if err != nil && (got != 0 || !errors.Is(err, errForeign)) {
			t.Errorf("refused with %s, %v", got, err)
		}
	})
}
