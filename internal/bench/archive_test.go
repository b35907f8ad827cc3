// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/archiver/buckettest"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector/kv"
)

// What bench archive writes must be what a server's Indexer would have
// written: otherwise it measures something that nobody has.
func TestASyntheticArchiveHasTheIndexObjectsOfItsRuns(t *testing.T) {
	for _, without := range []bool{false, true} {
		archive := Archive{Events: 2044, Machines: 3, Objects: 511, Payload: 16, Seed: 1, NoIndex: without,
			Engine: kv.InMemory(slog.New(slog.DiscardHandler)), Scratch: t.TempDir()}
		bucket := buckettest.NewMemory()
		if _, err := archive.Write(t.Context(), bucket, "memory:", nil); err != nil {
			t.Fatal(err)
		}
		manifest, err := archiver.Open(t.Context(), bucket)
		if err != nil {
			t.Fatal(err)
		}
		runs := 0
		err = manifest.VerifyIndex(t.Context(), 1, func(r archiver.RunReport) error {
			runs++
			if want := map[bool]archiver.RunState{false: archiver.RunWhole, true: archiver.RunMissing}[without]; r.Was != want || len(r.Damaged) > 0 {
				return fmt.Errorf("ordinals %d to %d: %v (%w), want %v", r.First, r.Last, r.Was, r.Why, want)
			}
			return nil
		})
		if err != nil || runs != 2 {
			t.Errorf("%d runs, %v", runs, err)
		}
		for _, key := range bucket.Keys() {
			if without && strings.HasPrefix(key, archiver.IndexPrefix) {
				t.Errorf("%s was written", key)
			}
		}
		events := 0
		for batch, err := range manifest.Follow(t.Context(), eventlog.FirstSeq) {
			if err != nil {
				t.Fatal(err)
			}
			events += len(batch.Entries)
		}
		if events < archive.Events {
			t.Errorf("%d events", events)
		}
	}
}

// Machines change hands: their blocks are listed where they are at the end.
func TestASyntheticArchiveSaysWhereItsMachinesAre(t *testing.T) {
	archive := Archive{Events: 30_000, Machines: 2, Objects: 1, Payload: 16, Seed: 1,
		Engine: kv.InMemory(slog.New(slog.DiscardHandler)), Scratch: t.TempDir()}
	bucket := buckettest.NewMemory()
	if _, err := archive.Write(t.Context(), bucket, "memory:", nil); err != nil {
		t.Fatal(err)
	}
	manifest, err := archiver.Open(t.Context(), bucket)
	if err != nil {
		t.Fatal(err)
	}
	accounts, paths, moved := map[eventlog.Seq]string{}, map[eventlog.Seq]string{}, false
	for batch, err := range manifest.Follow(t.Context(), eventlog.FirstSeq) {
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range batch.Entries {
			switch e := entry.Event; e.Type {
			case eventlog.AccountOpened:
				accounts[e.Account] = e.Name
			case eventlog.MachineRegistered, eventlog.MachineReowned:
				paths[e.Machine] = accounts[e.Account] + "/" + e.Name
				moved = moved || e.Type == eventlog.MachineReowned
			}
		}
	}
	if got := slices.Sorted(maps.Values(paths)); !moved || !slices.Equal(got, slices.Sorted(slices.Values(archive.Paths))) {
		t.Errorf("%q, want %q (moved: %v)", archive.Paths, got, moved)
	}
}
