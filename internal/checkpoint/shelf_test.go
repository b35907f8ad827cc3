// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/internal/testkit"
	"github.com/strandline-project/strandline/projector"
)

func runOnly(t *testing.T, opts recovery.Options) (*recovery.Result, error) {
	return recovery.Run(t.Context(), opts)
}

// twoCheckpoints is a world with an older and a newer checkpoint, and the files
// that only the newer one has.
func twoCheckpoints(t *testing.T, seed uint64) (w *world, older, newer *Manifest, own []string) {
	t.Helper()
	w = newWorld(t, seed)
	w.steps(40)
	older = w.take()
	w.steps(30)
	newer = w.take()
	w.steps(5)
	for sum := range newer.contents() {
		if _, shared := older.contents()[sum]; !shared {
			own = append(own, fileKey(sum))
		}
	}
	return w, older, newer, own
}

func TestADamagedCheckpointIsPassedOverAndNamed(t *testing.T) {
	w, older, newer, own := twoCheckpoints(t, 200)
	whole := w.bucket.Clone()
	if len(own) < 4 {
		t.Fatalf("%d files of its own", len(own))
	}
	fellBack := func(what, reason string, to *Manifest) {
		t.Helper()
		result := w.recovered(w.options(w.bucket))
		switch {
		case to == nil && result.Checkpoint != nil, to != nil && (result.Checkpoint == nil || result.Checkpoint.Seq != to.Seq):
			t.Errorf("%s: it began from %+v", what, result.Checkpoint)
		case len(result.Fallbacks) == 0 || result.Fallbacks[0].Checkpoint != nameOf(newer.Seq) || !strings.Contains(result.Fallbacks[0].Reason, reason):
			t.Errorf("%s: %+v does not say %q", what, result.Fallbacks, reason)
		}
	}
	for _, key := range own {
		for what, damage := range map[string]func(data []byte){
			"deleted":   func([]byte) { w.bucket.Remove(key) },
			"truncated": func(data []byte) { w.bucket.Set(key, data[:len(data)/2]) },
			"emptied":   func([]byte) { w.bucket.Set(key, nil) },
			"flipped":   func(data []byte) { w.bucket.Flip(key, 8*(len(data)/2)) },
		} {
			w.bucket = whole.Clone()
			data, _ := w.bucket.Get(key)
			damage(data)
			reason := map[string]string{"deleted": "no such object", "flipped": "has other content than its name says"}[what]
			fellBack(what+" "+key, reason, older)
		}
	}
	manifest := manifestKey(newer.Seq)
	text, _ := whole.Get(manifest)
	for at := 0; at < len(text); at += max(1, len(text)/rounds(12)) {
		w.bucket = whole.Clone()
		w.bucket.Flip(manifest, 8*at+1)
		fellBack(fmt.Sprint("manifest byte ", at), "damaged manifest", older)
	}
	w.bucket = whole.Clone()
	w.bucket.Set(manifest, text[:len(text)/3])
	fellBack("a truncated manifest", "damaged manifest", older)
	for what, c := range map[string]struct {
		change func(m *Manifest)
		reason string
	}{
		"of another log":           {func(m *Manifest) { m.LogID = eventlog.ID{9} }, "it is of another log"},
		"of another event":         {func(m *Manifest) { moveTo(m, older.Seq) }, "it is as of event"},
		"with another digest":      {func(m *Manifest) { m.Views[1].Digest[0]++ }, "the manifest says"},
		"of another view version":  {func(m *Manifest) { m.Views[0].Version++ }, "this build's of version 1"},
		"of a later format":        {func(m *Manifest) { m.Version++ }, "a version that this build does not read"},
		"without a view":           {func(m *Manifest) { m.Views = m.Views[:1] }, "it has no machine view"},
		"with the other's files":   {func(m *Manifest) { m.Views[0].Files, m.Views[1].Files = m.Views[1].Files, m.Views[0].Files }, "cannot be used by this build"},
		"without one of its files": {func(m *Manifest) { m.Views[0].Files = m.Views[0].Files[1:] }, ""},
		"with the older one's":     {func(m *Manifest) { m.Views[0].Files = older.Views[0].Files }, "the manifest says"},
	} {
		w.bucket = whole.Clone()
		changed, err := decode(text)
		must(t, err)
		c.change(changed)
		w.bucket.Set(manifest, seal(t, changed))
		fellBack("a manifest "+what, c.reason, older)
	}
	// No checkpoint is any good.
	w.bucket = whole.Clone()
	for _, key := range w.keys(filePrefix) {
		w.bucket.Flip(key, 3)
	}
	fellBack("all files flipped", "has other content", nil)
}

func moveTo(m *Manifest, seq eventlog.Seq) {
	m.Seq = seq
	for i := range m.Views {
		m.Views[i].Position = seq
	}
}

// A server that was cut off goes on for a while: what it took then is of no
// history. Its checkpoint lies beyond the cut of the next epoch.
func TestACheckpointBeyondACutIsPassedOver(t *testing.T) {
	w, older, newer, _ := twoCheckpoints(t, 201)
	cut := older.Seq
	var entries []eventlog.Entry
	for _, e := range w.history.Log.Entries() {
		if e.Event.Seq <= cut {
			entries = append(entries, e)
		}
	}
	start := eventlog.Event{Seq: eventlog.MakeSeq(newer.Seq.Epoch()+3, 1), Time: entries[len(entries)-1].Event.Time, Type: eventlog.EpochStarted,
		Previous: cut, Writer: eventlog.ID{5}, Host: "other", Cause: "take-over", Actor: "server"}
	entries = append(entries, eventlog.Entry{Event: start, Raw: eventlog.AppendEvent(nil, &start)})
	for _, key := range w.keys(archiver.LogPrefix) {
		w.bucket.Remove(key)
	}
	var one uint64
	for len(entries) > 0 {
		one++
		n := min(len(entries), 9)
		w.bucket.Set(archiver.Shipped(one).Key(), object(one, entries[:n]))
		entries = entries[n:]
	}
	opts := w.options(w.bucket)
	result, err := runOnly(t, opts)
	must(t, err)
	if result.Checkpoint == nil || result.Checkpoint.Seq != older.Seq || len(result.Fallbacks) != 1 || !strings.Contains(result.Fallbacks[0].Reason, "another history") {
		t.Fatalf("from %+v after %+v", result.Checkpoint, result.Fallbacks)
	}
	full := w.options(w.bucket)
	full.Full = true
	again, err := runOnly(t, full)
	must(t, err)
	for i := range again.Views {
		if again.Views[i].Digest != result.Views[i].Digest {
			t.Errorf("the %s view is %s, in full %s", again.Views[i].View, result.Views[i].Digest, again.Views[i].Digest)
		}
	}
}

// A manifest bounds the archive's end from below, for a full recovery too.
func TestAnArchiveThatEndsBeforeACheckpointHasAHole(t *testing.T) {
	w, _, newer, _ := twoCheckpoints(t, 202)
	for ordinal := *newer.Ordinal; ordinal <= uint64(w.objects); ordinal++ {
		w.bucket.Remove(archiver.Shipped(ordinal).Key())
	}
	for _, full := range []bool{false, true} {
		opts := w.options(w.bucket)
		opts.Full = full
		if _, err := runOnly(t, opts); !errors.Is(err, archiver.ErrHole) {
			t.Errorf("full %v: %v", full, err)
		}
	}
}

// Killed at each file, a restore is gone on with, and no whole file is read
// twice.
func TestARestoreThatIsKilledGoesOn(t *testing.T) {
	w, _, newer, _ := twoCheckpoints(t, 203)
	for kill := 1; ; kill++ {
		opts := w.options(w.bucket)
		faulty := buckettest.NewFaulty(w.bucket)
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		begun, read := 0, map[string]int{}
		hooks := buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
			if op != buckettest.Get || !strings.HasPrefix(key, filePrefix) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if begun++; begun == kill {
				cancel()
			}
			if ctx.Err() == nil {
				read[key]++
			}
			return ctx.Err()
		}}
		faulty.Set(hooks)
		opts.Archive = archiver.At(faulty, logID)
		shelf := *opts.Checkpoints.(*Shelf)
		shelf.Archive = opts.Archive
		opts.Checkpoints = &shelf
		_, err := recovery.Run(ctx, opts)
		cancel()
		ended := err == nil
		files := 0
		for _, v := range newer.Views {
			for _, f := range v.Files {
				if f.Size > 0 {
					files++
				}
			}
		}
		if !ended {
			whole := files - missing(t, shelf.Scratch, newer)
			before := begun
			hooks.Before = func(_ context.Context, op buckettest.Op, key string) error {
				if op == buckettest.Get && strings.HasPrefix(key, filePrefix) {
					mu.Lock()
					defer mu.Unlock()
					begun++
				}
				return nil
			}
			faulty.Set(hooks)
			result := w.recovered(opts)
			if result.Checkpoint == nil || result.Checkpoint.Seq != newer.Seq || len(result.Fallbacks) != 0 || !result.Resumed {
				t.Errorf("killed at file %d: from %+v after %+v", kill, result.Checkpoint, result.Fallbacks)
			}
			if again := begun - before; again != files-whole {
				t.Errorf("killed at file %d: %d files were whole, %d of %d read", kill, whole, again, files)
			}
			continue
		}
		if kill <= files {
			t.Errorf("not killed at file %d of %d", kill, files)
		}
		break
	}
}

// missing counts the files of m with content that are not whole in scratch.
func missing(t *testing.T, scratch string, m *Manifest) (n int) {
	t.Helper()
	for _, v := range m.Views {
		for _, f := range v.Files {
			sum, _, err := readFile(strings.Join([]string{scratch, nameOf(m.Seq), v.Name, f.Name}, "/"), f.Size)
			if f.Size > 0 && (err != nil || sum != f.SHA256) {
				n++
			}
		}
	}
	return n
}

// What lies in an interrupted restore's folder is looked at, not believed.
func TestAFileThatRottedInAnInterruptedRestoreIsReadAgain(t *testing.T) {
	w, _, newer, _ := twoCheckpoints(t, 204)
	opts := w.options(w.bucket)
	shelf := opts.Checkpoints.(*Shelf)
	dir, err := shelf.begin(nameOf(newer.Seq))
	must(t, err)
	d := &download{Shelf: shelf, dir: dir, views: newer.Views}
	must(t, d.run(t.Context()))
	for i, v := range newer.Views {
		path := strings.Join([]string{dir, v.Name, v.Files[i].Name}, "/")
		must(t, writeOver(path))
		must(t, writeOver(path+".other"))
	}
	_, err = shelf.begin("another")
	must(t, err)
	result := w.recovered(opts)
	if result.Checkpoint == nil || len(result.Fallbacks) != 0 {
		t.Errorf("from %+v after %+v", result.Checkpoint, result.Fallbacks)
	}
}

// A transfer that breaks goes on where it broke.
func TestATransferThatBreaksGoesOn(t *testing.T) {
	w, _, newer, _ := twoCheckpoints(t, 205)
	opts := w.options(w.bucket)
	faulty := buckettest.NewFaulty(w.bucket)
	faulty.Set(buckettest.Hooks{Cut: func(key string) int64 {
		if strings.HasPrefix(key, filePrefix) {
			return 700
		}
		return -1
	}})
	shelf := *opts.Checkpoints.(*Shelf)
	shelf.Archive = archiver.At(faulty, logID)
	opts.Checkpoints = &shelf
	result := w.recovered(opts)
	if result.Checkpoint == nil || result.Checkpoint.Seq != newer.Seq {
		t.Errorf("from %+v after %+v", result.Checkpoint, result.Fallbacks)
	}
}

// A store that does not answer is no checkpoint's fault. What comes of a file
// that cannot be read depends on what else of the store can.
func TestNoCheckpointIsBlamedForWhatIsNotItsFault(t *testing.T) {
	w, _, newer, _ := twoCheckpoints(t, 206)
	file := newer.Views[0].Files[0]
	reset := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	for name, test := range map[string]struct {
		fails func(key string, since time.Duration) error
		unfit bool
		cause error // nil: the file is read
	}{
		"the file alone":                       {func(key string, _ time.Duration) error { return only(key, buckettest.ErrInjected) }, true, buckettest.ErrInjected},
		"the file's connection":                {func(key string, _ time.Duration) error { return only(key, reset) }, false, reset},
		"the file is asked for less often":     {func(key string, _ time.Duration) error { return only(key, archiver.ErrThrottled) }, false, archiver.ErrThrottled},
		"the whole store":                      {func(string, time.Duration) error { return buckettest.ErrInjected }, false, buckettest.ErrInjected},
		"the whole store, for 20 s":            {until(20 * time.Second), false, nil},
		"the whole store, until it is doubted": {until(enough + longPause), false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				faulty := buckettest.NewFaulty(w.bucket)
				faulty.Set(buckettest.Hooks{Before: func(_ context.Context, _ buckettest.Op, key string) error { return test.fails(key, time.Since(began)) }})
				d := &download{Shelf: &Shelf{Archive: archiver.At(faulty, logID)}}
				err := d.file(t.Context(), file, filepath.Join(t.TempDir(), file.Name))
				if !errors.Is(err, test.cause) || errors.Is(err, recovery.ErrUnfit) != test.unfit {
					t.Errorf("%v, want %v, unfit %v", err, test.cause, test.unfit)
				}
				if err != nil && time.Since(began) < time.Minute {
					t.Errorf("it was given up after %v", time.Since(began))
				}
			})
		})
	}
	faulty := buckettest.NewFaulty(w.bucket)
	shelf := &Shelf{Archive: archiver.At(faulty, logID), Engine: w.engine, Scratch: t.TempDir()}
	ctx, cancel := context.WithCancel(t.Context())
	faulty.Set(buckettest.Hooks{Before: func(context.Context, buckettest.Op, string) error { cancel(); return ctx.Err() }})
	c := recovery.Checkpoint{Name: nameOf(newer.Seq), Seq: newer.Seq}
	if err := shelf.Restore(ctx, c, t.TempDir()); err == nil || errors.Is(err, recovery.ErrUnfit) {
		t.Errorf("the store is away: %v", err)
	}
}

// only is err for files of checkpoints.
func only(key string, err error) error {
	if strings.HasPrefix(key, filePrefix) {
		return err
	}
	return nil
}

// until is a store that is away for so long.
func until(end time.Duration) func(string, time.Duration) error {
	return func(_ string, since time.Duration) error {
		if since < end {
			return buckettest.ErrInjected
		}
		return nil
	}
}

// A recovery begins from its checkpoint, all the same, when the store stops
// while files come in, when it answers one request in twenty with 503, and
// when it cuts one transfer in twenty off.
func TestACheckpointIsRestoredFromAStoreThatFailsNowAndThen(t *testing.T) {
	dice := func(seed uint64) func() bool {
		var mu sync.Mutex
		rng := rand.New(rand.NewPCG(seed, 3))
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return rng.IntN(20) == 0
		}
	}
	for name, faults := range map[string]func(hit func(), roll func() bool) buckettest.Hooks{
		"stops": func(hit func(), _ func() bool) buckettest.Hooks {
			var mu sync.Mutex
			var files int
			var again time.Time
			return buckettest.Hooks{Before: func(_ context.Context, _ buckettest.Op, key string) error {
				mu.Lock()
				defer mu.Unlock()
				if strings.HasPrefix(key, filePrefix) {
					if files++; files == 3 {
						again = time.Now().Add(away(t))
					}
				}
				if time.Now().Before(again) {
					hit()
					return buckettest.ErrInjected
				}
				return nil
			}}
		},
		"asks for fewer requests": func(hit func(), roll func() bool) buckettest.Hooks {
			return buckettest.Hooks{Before: func(context.Context, buckettest.Op, string) error {
				if roll() {
					hit()
					return archiver.ErrThrottled
				}
				return nil
			}}
		},
		"cuts transfers off": func(hit func(), roll func() bool) buckettest.Hooks {
			return buckettest.Hooks{Cut: func(string) int64 {
				if roll() {
					hit()
					return 300
				}
				return -1
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait
			w, _, newer, _ := twoCheckpoints(t, 240)
			var hits atomic.Int64
			for seed := uint64(0); hits.Load() == 0; seed++ {
				faulty := buckettest.NewFaulty(w.bucket)
				faulty.Set(faults(func() { hits.Add(1) }, dice(seed)))
				result := w.recovered(w.options(archiver.Adaptive(faulty, archiver.AdaptiveOptions{})))
				if result.Checkpoint == nil || result.Checkpoint.Seq != newer.Seq || len(result.Fallbacks) != 0 {
					t.Fatalf("from %+v after %+v", result.Checkpoint, result.Fallbacks)
				}
			}
		})
	}
}

// away is how long a store stops for.
func away(t *testing.T) time.Duration {
	if testkit.Long() {
		return 20 * time.Second
	}
	t.Log("it stops for 1 s; it is 20 s with", testkit.Command)
	return time.Second
}

// One view alone is restored alone.
func TestOneViewAloneIsRestored(t *testing.T) {
	w, _, newer, _ := twoCheckpoints(t, 207)
	opts := w.options(w.bucket)
	opts.Projectors = []projector.Projector{projector.Machines()}
	shelf := *opts.Checkpoints.(*Shelf)
	shelf.Projectors = opts.Projectors
	opts.Checkpoints = &shelf
	result, err := runOnly(t, opts)
	must(t, err)
	if _, digest := w.machines.Digest(); result.Checkpoint == nil || result.Checkpoint.Seq != newer.Seq || result.Views[0].Digest != digest {
		t.Errorf("%+v", result)
	}
	if there, err := w.engine.Exists(opts.Dir + "/block"); there || err != nil {
		t.Errorf("the block view is there, too: %v", err)
	}
}

// A checkpoint that is removed while it is restored is one that is not there.
func TestACheckpointThatIsRemovedWhileItIsRestoredIsPassedOver(t *testing.T) {
	w, older, newer, own := twoCheckpoints(t, 208)
	opts := w.options(w.bucket)
	faulty := buckettest.NewFaulty(w.bucket)
	var removed sync.Once
	faulty.Set(buckettest.Hooks{Before: func(_ context.Context, op buckettest.Op, key string) error {
		if op == buckettest.Get && strings.HasPrefix(key, filePrefix) {
			removed.Do(func() {
				w.bucket.Remove(manifestKey(newer.Seq))
				for _, key := range own {
					w.bucket.Remove(key)
				}
			})
		}
		return nil
	}})
	shelf := *opts.Checkpoints.(*Shelf)
	shelf.Archive = archiver.At(faulty, logID)
	opts.Checkpoints = &shelf
	result := w.recovered(opts)
	if result.Checkpoint == nil || result.Checkpoint.Seq != older.Seq || len(result.Fallbacks) != 1 {
		t.Errorf("from %+v after %+v", result.Checkpoint, result.Fallbacks)
	}
	if there, err := w.engine.Exists(shelf.Scratch); there || err != nil {
		t.Errorf("files of a checkpoint that came to nothing are left: %v", err)
	}
}

// How fast a checkpoint's files come is measured on them alone: no more of them
// is read than the limit says, and one that is not there is named.
func TestTheRateOfACheckpointsFiles(t *testing.T) {
	w, _, newer, own := twoCheckpoints(t, 230)
	counted := buckettest.NewFaulty(w.bucket)
	shelf := &Shelf{Archive: archiver.At(counted, logID), Engine: w.engine}
	all, err := shelf.List(t.Context())
	must(t, err)
	if all[0].Seq != newer.Seq || all[0].Files != newer.files() || all[0].Files < 2 {
		t.Fatalf("%+v, want %d files", all[0], newer.files())
	}
	before := counted.Calls(buckettest.Get)
	rate, err := shelf.Rate(t.Context(), all[0], time.Hour, 1<<40)
	must(t, err)
	if gets := counted.Calls(buckettest.Get) - before; rate <= 0 || gets != all[0].Files+1 {
		t.Errorf("%v bytes a second; %d reads, want one of each of %d files and of the manifest", rate, gets, all[0].Files)
	}
	before = counted.Calls(buckettest.Get)
	_, err = shelf.Rate(t.Context(), all[0], time.Hour, 0)
	must(t, err)
	if gets := counted.Calls(buckettest.Get) - before; gets != 1 {
		t.Errorf("%d reads, want the manifest alone", gets)
	}
	w.bucket.Remove(own[0])
	if _, err = shelf.Rate(t.Context(), all[0], time.Hour, 1<<40); !errors.Is(err, recovery.ErrUnfit) || !strings.Contains(err.Error(), own[0]) {
		t.Errorf("without %s: %v", own[0], err)
	}
}

// A file that cannot be read is left out of the rate; when none can be, they
// are tried again as long as there is time.
func TestTheRateOfACheckpointsFilesOutlastsFailures(t *testing.T) {
	w, _, newer, _ := twoCheckpoints(t, 231)
	c := recovery.Checkpoint{Name: nameOf(newer.Seq), Seq: newer.Seq}
	for name, test := range map[string]struct {
		fails func(read int) bool
		ok    bool
	}{
		"one of them":       {func(read int) bool { return read == 1 }, true},
		"all, once":         {func(read int) bool { return read <= newer.files() }, true},
		"all, all the time": {func(int) bool { return true }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var reads atomic.Int64
				faulty := buckettest.NewFaulty(w.bucket)
				faulty.Set(buckettest.Hooks{Before: func(_ context.Context, _ buckettest.Op, key string) error {
					time.Sleep(time.Millisecond)
					if strings.HasPrefix(key, filePrefix) && test.fails(int(reads.Add(1))) {
						return archiver.ErrThrottled
					}
					return nil
				}})
				rate, err := (&Shelf{Archive: archiver.At(faulty, logID), Engine: w.engine}).Rate(t.Context(), c, 5*time.Second, 1<<40)
				if test.ok != (err == nil) || test.ok != (rate > 0) || err != nil && (!errors.Is(err, archiver.ErrThrottled) || errors.Is(err, recovery.ErrUnfit)) {
					t.Errorf("%v bytes a second, %v", rate, err)
				}
			})
		})
	}
}
