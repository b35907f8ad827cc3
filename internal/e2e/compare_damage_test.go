// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

// blockRow changes one row of the block view of a stopped state directory:
// its last live one. change returns what to write; nil: nothing.
func blockRow(t *testing.T, views string, change func(key, value []byte, batch projector.WriteBatch) error) {
	t.Helper()
	store, err := kv.OnDisk(slog.New(slog.DiscardHandler)).Open(filepath.Join(views, "block"), projector.Live)
	must(t, err)
	snapshot := store.Snapshot()
	table := projector.Blocks().Tables()[0].ID
	rows, err := snapshot.Range([]byte{table}, []byte{table + 1})
	must(t, err)
	var key, value []byte
	for rows.Next() {
		key, value = bytes.Clone(rows.Key()), bytes.Clone(rows.Value())
	}
	must(t, errors.Join(rows.Err(), rows.Close(), snapshot.Close()))
	batch := store.NewBatch()
	must(t, change(key, value, batch))
	must(t, errors.Join(batch.Commit(), batch.Close(), store.Close()))
}

// damages are ways in which a row can be wrong.
var damages = map[string]func(key, value []byte, batch projector.WriteBatch) error{
	"a row with another value": func(key, value []byte, batch projector.WriteBatch) error {
		value[9] ^= 1
		return batch.Set(key, value)
	},
	"a row of another event": func(key, value []byte, batch projector.WriteBatch) error {
		value[7] ^= 1
		return batch.Set(key, value)
	},
	"a row missing": func(key, _ []byte, batch projector.WriteBatch) error { return batch.Delete(key) },
	"a row too many": func(key, value []byte, batch projector.WriteBatch) error {
		key[len(key)-1] ^= 1
		return batch.Set(key, value)
	},
}

func TestADamagedRowIsFound(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	w.busy("a").endsCleanly()
	w.recover("b", 1)
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, dir: w.dir, archive: w.archive}
			dir := filepath.Join(t.TempDir(), "damaged")
			copyDir(t, w.path("b"), dir)
			blockRow(t, filepath.Join(dir, "views"), damage)
			for _, other := range []string{w.path("b"), w.archive, w.archive + "@2.1"} {
				c := w.compare("differ", dir, other)
				for _, view := range c.Views {
					if view.View == "block" && (len(view.Rows) != 1 || len(view.Machines) != 1 || view.Machines[0] != view.Rows[0].Machine || view.Rows[0].Table != "blocks") ||
						view.View == "machine" && len(view.Rows) != 0 {
						t.Errorf("%s: %+v", other, view)
					}
				}
			}
			r := w.run("compare", w.path("b"), dir)
			if !strings.Contains(r.out, "the rows of B's block view do not make its own digest: rebuild it") {
				t.Errorf("exit code %d: %s", r.code, r.out)
			}
			w.ok("rebuild", "--data", dir, "--view", "block")
			w.compare("equal", dir, w.archive)
		})
	}
}

// A damaged row in the lower side, which the next events touch, cannot be
// brought up: then both are compared where it stands.
func TestADamagedRowThatLaterEventsMeet(t *testing.T) {
	w := initialised(t)
	s := w.busy("a")
	w.recover("b", 1)
	var victim string
	blockRow(t, w.path("b", "views"), func(key, _ []byte, batch projector.WriteBatch) error {
		kind := eventlog.Kind(key[9])
		victim = fmt.Sprintf("%s/%x", kind, key[10:])
		return batch.Delete(key)
	})
	owner := "laptop"
	if strings.HasPrefix(victim, "config") {
		owner, victim = "phone", "config"
	}
	d := s.door(map[string]string{"laptop": "alice", "phone": "bob"}[owner], owner)
	d.wants(200, "DELETE", victim, nil)
	s.door("alice", "laptop").store("index", []byte("waits again"))
	s.awaitArchived()
	c := w.compare("differ", w.path("b"), s.admin)
	if len(c.Remarks) != 1 || !strings.Contains(c.Remarks[0], "could not be brought up") || c.Views[0].A.Position != c.A.End || c.Views[0].B.Position != c.A.End || len(c.Views[0].Rows) != 1 {
		t.Errorf("%+v", c)
	}
	s.endsCleanly()
}

func TestARunningServerWithADamagedViewIsFound(t *testing.T) {
	t.Parallel()
	w := initialised(t)
	w.busy("a").endsCleanly()
	blockRow(t, w.path("a", "views"), damages["a row with another value"])
	s := w.serve("a")
	s.awaitArchived()
	w.compare("differ", s.admin, w.archive)
	s.endsCleanly()
}
