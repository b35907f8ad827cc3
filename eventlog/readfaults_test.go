// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
)

// spoils are what can be found in the place of a file that is to be read.
var spoils = []struct {
	name  string
	spoil func(path string) error // the file was moved away
}{
	{"gone", func(string) error { return nil }},
	{"not to be opened", func(path string) error { return os.Symlink(path, path) }}, // a loop, which stops root, too
	{"not to be read", func(path string) error { return os.Mkdir(path, 0o700) }},
	{"cut short", func(path string) error { return os.WriteFile(path, []byte(ObjectMagic), 0o600) }},
}

// readers are all ways in which a log reads a generation's payload file.
var readers = []struct {
	name string
	read func(l *Log, g *Generation, e Entry) error
}{
	{"the payload", func(l *Log, g *Generation, e Entry) error {
		r, release, ok, err := l.OpenPayload(g.Ordinal)
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("not at hand")
		}
		defer release()
		return readPlaced(r, e.Placement, func([]byte) error { return nil })
	}},
	{"the footer", func(_ *Log, g *Generation, _ Entry) error {
		g.forget()
		_, err := g.Entries()
		return err
	}},
	{"the events", func(l *Log, g *Generation, _ Entry) error {
		g.forget()
		for _, err := range l.ReadTo(context.Background(), FirstSeq) {
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{"the checksum", func(_ *Log, g *Generation, _ Entry) error {
		g.mu.Lock()
		g.summed = false // as after a start
		g.mu.Unlock()
		_, err := g.Checksum()
		return err
	}},
}

// Whatever a payload file has become, who reads it gets an error that names the
// generation, everybody else goes on, and once the file is back so does the
// reader.
func TestAPayloadFileThatCannotBeReadStopsNobodyButItsReader(t *testing.T) {
	for _, file := range spoils {
		for _, reader := range readers {
			t.Run(file.name+", "+reader.name, func(t *testing.T) {
				s := fastState(t)
				l := s.open(nil)
				body := content(1, maxCarried+100)
				committed(t, store(t, l, body))
				must(t, l.Close(false))
				l = s.open(nil)
				g, e := l.Local()[0], collect(t, l, FirstSeq)[0]

				must(t, os.Rename(g.Path(), g.Path()+".away"))
				must(t, file.spoil(g.Path()))
				within(t, "reading what cannot be read", func() {
					if err := reader.read(l, g, e); err == nil || !namesFirst(err) {
						t.Errorf("reading %s gives %v, want an error that names the generation", reader.name, err)
					}
				})
				within(t, "the log", func() { expectAlive(t, l) })

				must(t, os.RemoveAll(g.Path()))
				must(t, os.Rename(g.Path()+".away", g.Path()))
				must(t, reader.read(l, g, e))
				if got := readBlock(t, l, e); !bytes.Equal(got, body) {
					t.Error("the block is not what was stored")
				}
				must(t, l.Close(false))
			})
		}
	}
}

// expectAlive asks everything that a log answers, and appends to it.
func expectAlive(t *testing.T, l *Log) {
	t.Helper()
	committed(t, l.Append(noteEvent(1), nil))
	if err := l.Err(); err != nil {
		t.Errorf("the log has stopped: %v", err)
	}
	l.Backlog()
	l.Archived()
	for _, g := range l.Local() {
		if g.String() == "" {
			t.Error("a generation has no name")
		}
	}
}

// Many readers of one generation share a file, and the last one closes it.
func TestAPayloadFileThatManyOpenAtOnceIsClosedByTheLastReader(t *testing.T) {
	s := fastState(t)
	l := s.open(nil)
	committed(t, store(t, l, content(1, maxCarried+1)))
	must(t, l.Close(false))
	l = s.open(nil)
	g := l.Local()[0]
	done := make(chan struct{})
	for range 8 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range 200 {
				_, release, ok, err := l.OpenPayload(1)
				if !ok || err != nil {
					t.Errorf("opening gives %v, %v", ok, err)
					return
				}
				release()
			}
		}()
	}
	for range 8 {
		<-done
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.file != nil || g.readers != 0 {
		t.Errorf("%d readers are left, and the file %v", g.readers, g.file)
	}
}

// namesFirst says whether err tells which generation, file or chunk it is about.
func namesFirst(err error) bool {
	for _, name := range []string{"generation 1", generationName(1, 0), "chunk 0"} {
		if strings.Contains(err.Error(), name) {
			return true
		}
	}
	return false
}
