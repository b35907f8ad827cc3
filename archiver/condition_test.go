// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
)

// ignoring is a store that overlooks the condition of a put.
var ignoring = buckettest.Hooks{Ignore: func(string) bool { return true }}

// answering makes the puts whose keys begin with prefix fail with err.
func answering(prefix string, err error) buckettest.Hooks {
	return buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
		if op == buckettest.Put && strings.HasPrefix(key, prefix) {
			return fmt.Errorf("put %s: %w", key, err)
		}
		return nil
	}}
}

// content is all that a bucket holds.
func content(b *buckettest.Memory) map[string]string {
	all := map[string]string{}
	for _, key := range b.Keys() {
		data, _ := b.Get(key)
		all[key] = string(data)
	}
	return all
}

func TestAStartAtAStoreThatDoesNotKeepPutIfAbsentClaimsNothing(t *testing.T) {
	for name, hooks := range map[string]buckettest.Hooks{
		"it ignores the condition": ignoring,
		"it refuses the condition": answering("", archiver.ErrUnsupported),
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s := killed(w)
				before := content(w.bucket)
				s.bucket.Set(hooks)
				began := time.Now()
				err := s.start(false)
				if !errors.Is(err, archiver.ErrUnsupported) || !strings.Contains(err.Error(), "--single-writer") || time.Since(began) > 0 {
					t.Errorf("%v after %v, want ErrUnsupported at once, and what to do", err, time.Since(began))
				}
				if !maps.Equal(content(w.bucket), before) {
					t.Error("the bucket was changed")
				}
				s.bucket.Set(noFaults)
				s.mustStart(false)
				s.stop()
			})
		})
	}
}

func TestAStartAsksAgainWhetherPutIfAbsentIsKept(t *testing.T) {
	for name, after := range map[string]bool{"failed, not done": false, "failed, but done": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s := killed(w)
				asked := 0
				fail := func(_ context.Context, op buckettest.Op, key string) error {
					if op != buckettest.Put || key != archiver.ManifestKey {
						return nil
					}
					if asked++; asked < 3 {
						return buckettest.ErrInjected
					}
					return nil
				}
				if after {
					s.bucket.Set(buckettest.Hooks{After: fail})
				} else {
					s.bucket.Set(buckettest.Hooks{Before: fail})
				}
				s.mustStart(false)
				if asked != 3 {
					t.Errorf("it was asked %d times", asked)
				}
				s.stop()
			})
		})
	}
}

func TestAStartGoesOnWhereTheStoreDeniesTheQuestion(t *testing.T) {
	inWorld(t, func(w *world) {
		s := killed(w)
		s.bucket.Set(answering(archiver.ManifestKey, archiver.ErrDenied))
		began := time.Now()
		s.mustStart(false)
		if took := time.Since(began); took > 0 {
			t.Errorf("it waited %v", took)
		}
		s.stop()
	})
}

func TestASingleWriterNeedsNoCondition(t *testing.T) {
	inWorld(t, func(w *world) {
		faulty := buckettest.NewFaulty(w.bucket)
		archive := archiver.At(archiver.SingleWriter(faulty), w.logID)
		w.must(archiver.Init(t.Context(), archive.Bucket(), w.logID, time.Now()))
		before := content(w.bucket)
		faulty.Set(ignoring)
		if err := archive.Writable(t.Context()); err != nil || !maps.Equal(content(w.bucket), before) {
			t.Errorf("a single writer is told %v", err)
		}
	})
}

// misread is a bucket whose reads give a wrong byte, those that it counts.
type misread struct {
	archiver.Bucket
	reads map[int]bool // from 1 on
	asked int
}

func (m *misread) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	r, err := m.Bucket.GetRange(ctx, key, offset, length)
	if m.asked++; err != nil || !m.reads[m.asked] {
		return r, err
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	data = bytes.Replace(data, []byte(`"log_id": "`), []byte(`"log_id": "0`), 1)
	return io.NopCloser(bytes.NewReader(data)), nil
}

func TestAWrongReadIsNeverPutOverTheManifest(t *testing.T) {
	for _, reads := range []map[int]bool{{1: true}, {2: true}, {1: true, 2: true}} {
		inWorld(t, func(w *world) {
			faulty := buckettest.NewFaulty(w.bucket)
			w.must(archiver.Init(context.Background(), faulty, w.logID, time.Now()))
			before := content(w.bucket)
			faulty.Set(ignoring)
			err := archiver.At(&misread{Bucket: faulty, reads: reads}, w.logID).Writable(context.Background())
			if err == nil || !maps.Equal(content(w.bucket), before) {
				t.Errorf("wrong reads %v: %v", reads, err)
			}
		})
	}
}

func TestARunningServerPutsNothingWhileTheStoreDoesNotKeepPutIfAbsent(t *testing.T) {
	for name, tc := range map[string]struct {
		hooks buckettest.Hooks
		after time.Duration // it is found out
	}{
		"it ignores the condition, found within a day": {ignoring, 25 * time.Hour},
		"it refuses the condition, found by a put":     {answering("", archiver.ErrUnsupported), 0},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				s := w.first()
				s.mustStart(false)
				s.wait()
				s.bucket.Set(tc.hooks)
				time.Sleep(tc.after)
				before := content(w.bucket)
				s.store("a block")
				time.Sleep(time.Hour)
				archive := s.shipper.Archive
				if err := archive.Unsafe(); !errors.Is(err, archiver.ErrUnsupported) || !strings.Contains(err.Error(), "--single-writer") {
					t.Errorf("it says %v", err)
				}
				if err, _ := s.shipper.Away(); !errors.Is(err, archiver.ErrUnsupported) {
					t.Errorf("the status is told %v", err)
				}
				if err := archive.Owns(t.Context(), s.started.Head.Epoch); !errors.Is(err, archiver.ErrUnsupported) {
					t.Errorf("others may put: %v", err)
				}
				if !maps.Equal(content(w.bucket), before) {
					t.Error("the bucket was changed")
				}
				if err := s.log.Err(); err != nil {
					t.Errorf("the log has ended: %v", err)
				}
				s.bucket.Set(noFaults)
				s.wait()
				if err := archive.Unsafe(); err != nil {
					t.Errorf("after it: %v", err)
				}
				s.check()
				s.stop()
			})
		})
	}
}

func TestAServerThatPutsNothingStillFindsThatItIsFenced(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		s.bucket.Set(ignoring)
		time.Sleep(25 * time.Hour)
		if s.shipper.Archive.Unsafe() == nil {
			t.Fatal("it has not found out")
		}
		b := w.recovered()
		b.mustStart(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := s.log.Err(); !errors.Is(err, archiver.ErrFenced) {
			t.Errorf("the old server's log: %v, want fenced", err)
		}
		b.stop()
		s.kill()
	})
}

func TestAnOutageIsNoAnswerToWhetherPutIfAbsentIsKept(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.wait()
		asked := 0
		hooks := buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
			if op == buckettest.Put && key == archiver.ManifestKey {
				asked++
				return buckettest.ErrInjected
			}
			return nil
		}}
		s.bucket.Set(hooks)
		time.Sleep(24*time.Hour + 30*time.Minute)
		s.store("a block")
		s.wait()
		if err := s.shipper.Archive.Unsafe(); err != nil || asked < 10 {
			t.Errorf("asked %d times, it says %v", asked, err)
		}
		s.bucket.Set(ignoring)
		time.Sleep(2 * time.Minute)
		if s.shipper.Archive.Unsafe() == nil {
			t.Error("it does not ask any more")
		}
		s.bucket.Set(noFaults)
		s.wait()
		s.stop()
	})
}

func TestWhyTheArchiveTakesNothingIsLoggedOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		var said bytes.Buffer
		s := w.first()
		s.said = slog.New(slog.NewTextHandler(&said, nil))
		s.mustStart(false)
		s.wait()
		s.bucket.Away()
		s.store("a block")
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := strings.Count(said.String(), "takes nothing"); n != 1 {
			t.Errorf("it was logged %d times in an hour: %s", n, said.String())
		}
		s.bucket.Set(noFaults)
		s.wait()
		s.stop()
	})
}

func TestAStartRefusesAnArchiveWhoseLastKnownObjectWasReplaced(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		s.store("a block")
		s.wait()
		w.must(s.janitor.Round(context.Background())) // records how far the archive is known
		mark := s.dir.State().Archived
		s.kill()
		another(w, archiver.Shipped(mark.Ordinal).Key(), func(_ []byte, t *eventlog.Trailer) { t.Last++ })
		before := content(w.bucket)
		if err := s.start(false); !errors.Is(err, eventlog.ErrObjectDamaged) || !strings.Contains(err.Error(), "replaced") {
			t.Errorf("it gives %v", err)
		}
		if !maps.Equal(content(w.bucket), before) || len(s.aside()) > 0 {
			t.Errorf("the bucket was changed, or %q set aside", s.aside())
		}
	})
}

func TestAReplacedObjectIsAnAlarmAndKeepsItsLocalCopy(t *testing.T) {
	inWorld(t, func(w *world) {
		s := archivedServer(w)
		gens := s.log.Local()
		another(w, archiver.Shipped(gens[0].Ordinal).Key(), func(_ []byte, t *eventlog.Trailer) { t.ClosedAt++ })
		for range 2 {
			if err := s.janitor.Round(context.Background()); err == nil || !strings.Contains(err.Error(), "replaced") {
				t.Errorf("the janitor says %v", err)
			}
		}
		if n := s.shipper.Archive.Changed(); n != 1 {
			t.Errorf("%d objects are said to be changed", n)
		}
		if !slices.Equal(s.log.Local(), gens) {
			t.Error("a local copy went")
		}
		s.kill()
	})
}

func TestAReplacedObjectIsBoundByNoIndexObject(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.first()
		s.mustStart(false)
		archive := archiver.At(s.bucket, w.logID)
		archive.SetLogger(quiet())
		for gens := s.log.Local(); gens[len(gens)-1].Ordinal < 257; gens = s.log.Local() {
			s.store("a block")
			s.wait()
		}
		another(w, archiver.Shipped(20).Key(), func(_ []byte, t *eventlog.Trailer) { t.ClosedAt++ })
		x := &archiver.Indexer{Archive: archive, Log: s.log, Epoch: s.started.Head.Epoch, Scratch: s.dir.Path("spool"), Logger: quiet()}
		x.Archived(257)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); x.Run(ctx) }()
		synctest.Wait()
		cancel()
		<-done
		if stats := x.Stats(); stats.Written != 0 || stats.Err == nil || !strings.Contains(stats.Err.Error(), "replaced") || archive.Changed() != 1 {
			t.Errorf("it says %+v, and that %d objects were changed", stats, archive.Changed())
		}
		s.kill()
	})
}
