// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// ship archives what l closes until ctx ends, as the archiver does.
func ship(ctx context.Context, l *Log) {
	for after := uint64(0); ; {
		g, err := l.NextClosed(ctx, after)
		if err != nil {
			return
		}
		after = g.Ordinal
		l.MarkArchived(g, time.Millisecond)
	}
}

func TestAnAnswerThatWaitsForTheArchiveNeverHangs(t *testing.T) {
	gone := errors.New("the archive belongs to another server")
	tests := []struct {
		name string
		do   func(l *Log, seq Seq)
		want error
	}{
		{"the archive is ready", func(l *Log, _ Seq) { go ship(context.Background(), l) }, nil},
		{"an older generation ships first", func(l *Log, _ Seq) {
			time.Sleep(time.Second)
			go ship(context.Background(), l)
		}, nil},
		{"the log closes and then ships", func(l *Log, _ Seq) { l.Close(true) }, ErrClosed},
		{"the log is poisoned", func(l *Log, _ Seq) { l.poison(errDisk) }, ErrPoisoned},
		{"the log is fenced", func(l *Log, _ Seq) { l.Fence(gone) }, gone},
	}
	for _, tt := range tests {
		for _, early := range []bool{true, false} {
			name := tt.name + ", waiting since after the commit"
			if early {
				name = tt.name + ", waiting since before the commit"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newState(t).open(nil)
					answer := make(chan error, 1)
					wait := func(seq Seq) { go func() { answer <- l.WaitArchived(t.Context(), seq) }() }
					if early {
						wait(FirstSeq)
						synctest.Wait()
					}
					seq := committed(t, l.Append(noteEvent(1), nil))
					if !early {
						wait(seq)
						synctest.Wait()
					}
					tt.do(l, seq)
					if err := <-answer; !errors.Is(err, tt.want) {
						t.Errorf("the answer is %v, want %v", err, tt.want)
					}
					l.Close(false)
				})
			})
		}
	}
}

// An answer comes with the generation that holds its event, not with the one
// before it and not with the one after it.
func TestAnAnswerComesWithTheGenerationOfItsEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newState(t).open(func(o *Options) { o.MaxEvents = 2 })
		last := appendNotes(t, l, 6)
		eventuallyClosed(t, l, 3)
		var answered [7]bool // by counter; read when all wait
		for counter := uint32(1); counter <= last.Counter(); counter++ {
			go func() {
				must(t, l.WaitArchived(t.Context(), MakeSeq(1, counter)))
				answered[counter] = true
			}()
		}
		for i, g := range l.Local() {
			l.MarkArchived(g, time.Millisecond)
			synctest.Wait()
			for counter := 1; counter <= 6; counter++ {
				if want := counter <= 2*(i+1); answered[counter] != want {
					t.Errorf("with %d generations archived, the answer for event %d has come: %v", i+1, counter, !want)
				}
			}
		}
		must(t, l.Close(false))
	})
}

func TestManyAnswersThatWaitShareObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newState(t).open(nil)
		cuts := 0
		go func() {
			for after := uint64(0); ; cuts++ {
				g, err := l.NextClosed(t.Context(), after)
				if err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond) // the upload
				after = g.Ordinal
				l.MarkArchived(g, 100*time.Millisecond)
			}
		}()
		answers := make(chan error)
		for i := range 200 {
			go func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				seq, err := l.Append(noteEvent(i), nil).Wait()
				if err == nil {
					err = l.WaitArchived(t.Context(), seq)
				}
				answers <- err
			}()
		}
		for range 200 {
			must(t, <-answers)
		}
		must(t, l.Close(true))
		synctest.Wait()
		if cuts < 10 || cuts > 30 {
			t.Errorf("200 answers over 2 s made %d objects, want about one for each upload of 100 ms", cuts)
		}
	})
}

func TestAGenerationIsCutWhenItIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newState(t).open(func(o *Options) { o.MaxAge = 5 * time.Second })
		began := time.Now()
		committed(t, l.Append(noteEvent(1), nil))
		time.Sleep(2 * time.Second)
		committed(t, l.Append(noteEvent(2), nil))
		g, err := l.NextClosed(t.Context(), 0)
		must(t, err)
		if age := time.Since(began); age != 5*time.Second {
			t.Errorf("it was cut after %v, want 5 s", age)
		}
		if first, last := g.Seqs(); first != MakeSeq(1, 1) || last != MakeSeq(1, 2) {
			t.Errorf("it holds %s to %s", first, last)
		}
		must(t, l.Close(false))
	})
}

func TestAnIdleLogIsSealedOnceAndWritesNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newState(t)
		l := s.open(nil)
		committed(t, l.Append(noteEvent(1), nil))
		path := l.Local()[0].dir + "/" + segmentName
		frames := func() []frame {
			data, err := os.ReadFile(path)
			must(t, err)
			return readSegment(data).frames
		}
		time.Sleep(sealAfter - time.Millisecond)
		synctest.Wait()
		if n := len(frames()); n != 2 {
			t.Errorf("%d frames just before the seal, want head and event", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		all := frames()
		if len(all) != 3 || all[2].flags != frameSeal || all[2].durable != MakeSeq(1, 1) {
			t.Errorf("after a minute of silence the frames are %+v, want one seal behind the event", all)
		}
		must(t, l.Close(false))
	})
}

func TestTheArchivedWatermarkMovesOnceForEachGenerationAndNotWhenFenced(t *testing.T) {
	s := newState(t)
	l := s.open(func(o *Options) { o.MaxEvents = 2 })
	appendNotes(t, l, 6)
	eventuallyClosed(t, l, 3)
	gens := l.Local()
	whole, _ := l.Backlog()
	l.MarkArchived(gens[0], time.Second)
	once, _ := l.Backlog()
	l.MarkArchived(gens[0], time.Second)
	twice, _ := l.Backlog()
	if l.Archived() != MakeSeq(1, 2) || once >= whole || twice != once {
		t.Errorf("archived %s, backlog %d, %d, %d", l.Archived(), whole, once, twice)
	}
	if err := l.Drop(gens[1]); err == nil {
		t.Fatal("a generation was dropped that is not the oldest")
	}
	must(t, l.Drop(gens[0]))
	if err := l.Drop(gens[1]); err == nil {
		t.Fatal("a generation was dropped that is not archived")
	}
	l.MarkArchived(gens[1], 0)
	l.MarkArchived(gens[2], 0)
	if rest, _ := l.Backlog(); rest != 0 {
		t.Errorf("with everything archived the backlog is %d", rest)
	}
	committed(t, l.Append(noteEvent(1), nil))
	seq := committed(t, l.Append(noteEvent(1), nil))
	eventuallyClosed(t, l, 3)
	l.Fence(errors.New("claimed by another"))
	l.MarkArchived(l.Local()[2], 0)
	if l.Archived() >= seq {
		t.Error("the watermark moved after the fence")
	}
}

func TestOnlyTheOldestGenerationIsDropped(t *testing.T) {
	l := newState(t).open(func(o *Options) { o.MaxEvents = 2 })
	appendNotes(t, l, 6)
	eventuallyClosed(t, l, 3)
	gens := l.Local()
	for _, g := range gens {
		l.MarkArchived(g, time.Second)
	}
	for _, g := range gens[1:] {
		if err := l.Drop(g); err == nil || len(l.Local()) != 3 {
			t.Errorf("%s was dropped before the oldest: %v", g, err)
		}
	}
	for _, g := range gens {
		must(t, l.Drop(g))
	}
}

func TestAClosedLogHandsOutWhatItClosedAndThenEnds(t *testing.T) {
	s := newState(t)
	l := s.open(func(o *Options) { o.MaxEvents = 2 })
	next := make(chan error, 1)
	go func() {
		_, err := l.NextClosed(context.Background(), 3)
		next <- err
	}()
	appendNotes(t, l, 5)
	must(t, l.Close(true))
	if err := <-next; !errors.Is(err, ErrClosed) {
		t.Errorf("behind the last generation: %v, want ErrClosed", err)
	}
	var flags []bool
	for after := uint64(0); ; after++ {
		g, err := l.NextClosed(context.Background(), after)
		if err != nil {
			break
		}
		flags = append(flags, g.Trailer.CleanEnd())
	}
	if len(flags) != 3 || flags[0] || flags[1] || !flags[2] {
		t.Errorf("clean-end flags %v, want it on the last of three", flags)
	}
	if _, err := l.Append(noteEvent(1), nil).Wait(); !errors.Is(err, ErrClosed) {
		t.Errorf("an append after Close gives %v, want ErrClosed", err)
	}
	must(t, l.Close(true))
}

func TestAFenceStopsAppendsAndKeepsWhatIsCommittedForItsOwner(t *testing.T) {
	s := newState(t)
	l := s.open(nil)
	seq := appendNotes(t, l, 3)
	gone := errors.New("claimed by another")
	l.Fence(gone)
	if _, err := l.Append(noteEvent(1), nil).Wait(); !errors.Is(err, gone) {
		t.Errorf("an append gives %v", err)
	}
	if _, err := l.NextClosed(context.Background(), 0); err != nil && !errors.Is(err, gone) {
		t.Errorf("NextClosed gives %v", err)
	}
	if err := l.Close(true); !errors.Is(err, gone) {
		t.Errorf("Close gives %v", err)
	}
	w := s.read(Bounds{Durable: seq})
	if g := w.Generations()[0]; g.Trailer == nil || g.Trailer.CleanEnd() {
		t.Errorf("a fenced server's last generation: %+v, want it closed, without the clean-end flag", g.Trailer)
	}
}

func TestCloseWithoutAnEventLeavesNoGeneration(t *testing.T) {
	s := newState(t)
	must(t, s.open(nil).Close(true))
	dirs, err := os.ReadDir(s.wal())
	must(t, err)
	if len(dirs) != 0 {
		t.Errorf("%d directories are left", len(dirs))
	}
}
