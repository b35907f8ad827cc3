// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/dir"
	"github.com/strandline-project/strandline/archiver/s3"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/httpapi"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
)

// side is one of the two that compare looks at: a log up to its end, and the
// views that stand there.
type side struct {
	label string // A or B

	Kind  string       `json:"kind"`
	Name  string       `json:"name"` // as given, without credentials
	LogID eventlog.ID  `json:"log_id"`
	End   eventlog.Seq `json:"end"` // up to which it was read
	EndAt string       `json:"end_at"`
	// Unread says why its events could not be read; then only its views are
	// compared.
	Unread string `json:"log_unread,omitempty"`
	// Waived is what its views were brought past to be compared, because the
	// log itself waives it.
	Waived []archiver.Waiver `json:"waived,omitempty"`

	log     eventlog.History  // ends at End
	archive *archiver.Archive // of an archive; else nil
	local   eventlog.Seq      // the first event that the WAL of a state directory holds; 0: none
	pending []archiver.Waiver // of a state directory, that are not in its log yet
	root    string            // folder of its views, which stand at End; "": none stand anywhere, they are built from the log
	scratch string            // a folder of its own
	closers []func() error
}

// openSide finds out what spec names and reads how far it goes. Nothing of it
// is changed. The caller closes the side, also after an error.
func (c *comparison) openSide(ctx context.Context, label, spec string) (*side, error) {
	s := &side{label: label, Name: withoutSecrets(spec), scratch: filepath.Join(c.scratch, label)}
	address, live := liveAddress(spec)
	var err error
	switch {
	case strings.HasPrefix(spec, dir.Scheme), strings.HasPrefix(spec, s3.Scheme):
		var at moment
		if spec, at, err = splitAsOf(spec); err == nil {
			s.Name = withoutSecrets(spec) + at.String()
			err = c.openArchive(ctx, s, spec, at)
		}
		s.Kind = "archive"
	case live:
		s.Kind, err = "live server", c.openLive(ctx, s, address)
	default:
		s.Kind, err = "state directory", c.openState(ctx, s, spec)
	}
	if err != nil {
		return s, fmt.Errorf("%s, the %s %s: %w", label, s.Kind, s.Name, err)
	}
	s.EndAt = s.End.String()
	return s, nil
}

func (s *side) close() error {
	var err error
	for _, closer := range slices.Backward(s.closers) {
		err = errors.Join(err, closer())
	}
	return err
}

// liveAddress reports whether spec is the admin address of a server, and which.
func liveAddress(spec string) (string, bool) {
	if address, found := strings.CutPrefix(spec, "http://"); found {
		return address, true
	}
	if _, err := os.Stat(spec); err == nil {
		return "", false
	}
	_, port, err := net.SplitHostPort(spec)
	if err != nil {
		return "", false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return spec, err == nil
}

// openArchive reads how far an archive goes, as of a moment.
func (c *comparison) openArchive(ctx context.Context, s *side, spec string, asOf moment) error {
	bucket, err := openBucket(spec, false)
	if err != nil {
		return err
	}
	archive, err := archiver.Open(ctx, c.archives.adaptive(bucket))
	if err != nil {
		return err
	}
	s.LogID, s.archive = archive.LogID(), archive
	// What claims say of the archive's end is taken in here: an archive that
	// ends before has lost something.
	if _, err := archive.HighestClaim(ctx); err != nil {
		return err
	}
	objects, err := archive.Objects(ctx, 1)
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		return fmt.Errorf("%w: there is no object at all", archiver.ErrHole)
	}
	trailer, _, err := archive.Metadata(ctx, objects[len(objects)-1])
	if err != nil {
		return err
	}
	s.End, err = asOf.in(ctx, archive, trailer.Last)
	s.log = recovery.UpTo(archive, s.End)
	return err
}

// moment is a place in a log: an event, or the last one of a time. The zero
// one is the log's end.
type moment struct {
	seq  eventlog.Seq
	time time.Time
}

// String prints m as it stands behind an archive.
func (m moment) String() string {
	switch {
	case m.seq != 0:
		return "@" + m.seq.String()
	case m.time.IsZero():
		return ""
	}
	return "@" + m.time.Format(time.RFC3339Nano)
}

// splitAsOf cuts the moment off an archive's name, as in dir:PATH@7.1234.
func splitAsOf(spec string) (string, moment, error) {
	at := strings.LastIndexByte(spec, '@')
	if at < 0 || strings.ContainsAny(spec[at:], "/?=") {
		return spec, moment{}, nil
	}
	name, text := spec[:at], spec[at+1:]
	m, err := parseMoment(text)
	if err != nil {
		return "", moment{}, usagef("@%s: write an event (@7.1234) or a time (@2006-01-02T15:04:05Z) behind an archive: %w", text, err)
	}
	return name, m, nil
}

// parseMoment reads an event or a time.
func parseMoment(text string) (moment, error) {
	if when, err := time.Parse(time.RFC3339, text); err == nil {
		return moment{time: when}, nil
	}
	seq, err := eventlog.ParseSeq(text)
	return moment{seq: seq}, err
}

// in returns the event that m is in a log which ends at last.
func (m moment) in(ctx context.Context, log eventlog.History, last eventlog.Seq) (eventlog.Seq, error) {
	switch {
	case m.seq > last:
		return 0, usagef("it ends at seq %s, before %s: name an event that it has", last, m.seq)
	case m.seq != 0:
		entry, err := projector.EventAt(ctx, log, m.seq)
		if err == nil && entry == nil {
			err = usagef("it has no event %s: that epoch ended before", m.seq)
		}
		return m.seq, err
	case m.time.IsZero():
		return last, nil
	}
	seq, err := m.resolve(ctx, log, nil)
	return min(seq, last), err
}

// openState takes a state directory that no server uses. It ends where its
// log does: what its views lack of that they are given in a copy.
func (c *comparison) openState(ctx context.Context, s *side, path string) error {
	locked, err := archiver.OpenStateDir(path)
	if errors.Is(err, archiver.ErrInUse) {
		return fmt.Errorf("%w; compare with its server instead: write its admin address, http://%s say", err, httpapi.DefaultAddr)
	}
	if err != nil {
		return err
	}
	s.closers = append(s.closers, locked.Close)
	state := locked.State()
	if state.Phase != archiver.PhaseReady {
		return withCode(exitUsage, fmt.Errorf("it is %s: finish `strandline init` or `strandline recover` first", state.Phase))
	}
	s.LogID, s.root, s.pending = state.LogID, locked.Path("views"), state.Waivers
	positions, err := c.positions(s.root)
	if err != nil {
		return err
	}
	if slices.Min(positions) == 0 {
		c.remark("%s lacks a view: its views are built from its log", s.label)
		s.root = ""
		return c.openWAL(s, locked, nil)
	}
	s.End = slices.Max(positions)
	if err := c.openWAL(s, locked, positions); err != nil {
		s.log, s.Unread = nil, err.Error()
		if slices.Min(positions) != s.End {
			return fmt.Errorf("its views stand at %v, and its log cannot be read to bring them together: %w", positions, err)
		}
		return nil
	}
	if slices.Min(positions) == s.End {
		return nil
	}
	return c.level(ctx, s)
}

// openWAL opens the log of a state directory: the archive that it names, and
// the WAL. Whether the archive answers shows when it is asked.
func (c *comparison) openWAL(s *side, locked *archiver.StateDir, positions []eventlog.Seq) error {
	wal, err := readWAL(locked, positions...)
	if err != nil {
		return err
	}
	if damage := wal.Damage(); damage != nil {
		return damage
	}
	last, _, err := wal.Last()
	if err != nil {
		return err
	}
	if held := wal.Generations(); len(held) > 0 {
		s.local, _ = held[0].Seqs()
	}
	state := locked.State()
	s.End = max(s.End, last)
	if state.Archived != nil {
		s.End = max(s.End, state.Archived.Seq)
	}
	log, err := wal.Reader(c.archiveOf(&state), s.End, eventlog.ErrClosed)
	if err != nil {
		return err
	}
	s.log = recovery.UpTo(standing{log}, s.End)
	return nil
}

// openLive copies the views of a running server.
func (c *comparison) openLive(ctx context.Context, s *side, address string) error {
	client := &httpapi.Client{Addr: address}
	status, err := client.Status(ctx)
	if err != nil {
		return asked(err)
	}
	if status.LogID == (eventlog.ID{}) {
		return withCode(exitUnavailable, fmt.Errorf("it does not know its log yet: it is %s", status.Mode))
	}
	s.LogID, s.root = status.LogID, filepath.Join(s.scratch, "copy")
	var positions []eventlog.Seq
	for _, name := range viewNames() {
		c.progress.Start("copy the "+name+" view of "+s.label, 0)
		position, err := c.fetch(ctx, client, name, filepath.Join(s.root, name))
		if err != nil {
			return asked(err)
		}
		positions = append(positions, position)
	}
	s.End = slices.Max(positions)
	s.log = recovery.UpTo(liveLog{client}, s.End)
	if slices.Min(positions) == s.End {
		return nil
	}
	return c.level(ctx, s) // it was written to between the copies
}

func (c *comparison) fetch(ctx context.Context, client *httpapi.Client, name, to string) (_ eventlog.Seq, err error) {
	body, err := client.CopyView(ctx, name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	position, err := projector.Import(ctx, c.engine, to, projectors()[name], body)
	switch {
	case errors.Is(err, projector.ErrUnusable):
		err = fmt.Errorf("%w; compare with the strandline that the server runs", err)
	case errors.Is(err, projector.ErrCopy) && ctx.Err() == nil:
		err = withCode(exitUnavailable, err) // the server has gone
	}
	return position, err
}

// positions returns where the views in a folder stand, 0 for one that is not
// there.
func (c *comparison) positions(root string) ([]eventlog.Seq, error) {
	var all []eventlog.Seq
	for _, name := range viewNames() {
		path := filepath.Join(root, name)
		there, err := c.engine.Exists(path)
		if err != nil {
			return nil, err
		}
		position := eventlog.Seq(0)
		if there {
			position, err = c.position(path, name)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, position)
	}
	return all, nil
}

func (c *comparison) position(path, name string) (eventlog.Seq, error) {
	view, err := projector.Open(c.engine, path, projectors()[name], projector.ReadOnly, slog.Default())
	if errors.Is(err, projector.ErrUnusable) {
		err = fmt.Errorf("%w; the next start of its server, or strandline rebuild, projects it again", err)
	}
	if err != nil {
		return 0, err
	}
	return view.Position(), view.Close()
}
