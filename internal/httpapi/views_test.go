// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/projector"
)

var _ Copyable = (*projector.View)(nil)

// fakeView is a view whose copy is some bytes, and then perhaps an error.
type fakeView struct {
	name  string
	bytes []byte
	err   error
	ended chan error // gets what ended an export, which then waits for its context; may be nil
}

func (v *fakeView) Name() string { return v.name }

func (v *fakeView) Export(ctx context.Context, w io.Writer) error {
	err := v.export(ctx, w)
	if v.ended != nil {
		v.ended <- err
	}
	return err
}

func (v *fakeView) export(ctx context.Context, w io.Writer) error {
	if len(v.bytes) > 0 {
		if _, err := w.Write(v.bytes); err != nil {
			return err
		}
	}
	if v.ended != nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return v.err
}

func TestACopyOfAViewComesAsItIs(t *testing.T) {
	want := bytes.Repeat([]byte("a row of the view\n"), 100_000)
	c := serve(t, &fakeServer{views: []Copyable{&fakeView{name: "block"}, &fakeView{name: "machine", bytes: want}}})
	body, err := c.CopyView(testContext(t), "machine")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if err = errors.Join(err, body.Close()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d: %v", len(got), len(want), err)
	}
}

func TestACopyThatBreaksOffIsNotTakenForAWholeOne(t *testing.T) {
	sick := errors.New("input/output error")
	c := serve(t, &fakeServer{views: []Copyable{&fakeView{name: "machine", bytes: make([]byte, 100_000), err: sick}}})
	body, err := c.CopyView(testContext(t), "machine")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if err == nil {
		t.Errorf("%d bytes pass for all", len(got))
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
}

func TestACopyThatCannotBeHadIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		server *fakeServer
		want   string
	}{
		"while there is no view yet":     {&fakeServer{status: Status{Mode: ModeStarting}}, "503"},
		"of a view that there is not":    {&fakeServer{views: []Copyable{&fakeView{name: "block"}}}, "there is no machine view"},
		"when the view cannot be read":   {&fakeServer{views: []Copyable{&fakeView{name: "machine", err: io.ErrUnexpectedEOF}}}, "unexpected EOF"},
		"and the mode says why, if none": {&fakeServer{status: Status{Mode: ModeRecovering}}, "recovering"},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := serve(t, test.server).CopyView(testContext(t), "machine")
			if err == nil {
				t.Error("a copy came", body.Close())
			} else if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v does not say %q", err, test.want)
			}
		})
	}
}

func TestACopyEndsWhenNobodyTakesIt(t *testing.T) {
	view := &fakeView{name: "machine", bytes: make([]byte, 1<<20), ended: make(chan error, 1)}
	c := serve(t, &fakeServer{views: []Copyable{view}})
	ctx, cancel := context.WithCancel(testContext(t))
	body, err := c.CopyView(ctx, "machine")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-view.ended; err == nil {
		t.Error("the export goes on")
	}
	_ = body.Close() // it was broken off
}
