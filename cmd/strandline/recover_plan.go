// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/strandline-project/strandline/archiver"
	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/internal/recovery"
	"github.com/strandline-project/strandline/projector"
	"github.com/strandline-project/strandline/projector/kv"
)

// prices are what a store asks, in dollars; by default those of a large one.
type prices struct {
	gets  float64 // for 1,000 reads
	lists float64 // for 1,000 lists
	bytes float64 // for a GB that leaves the store
}

func (p *prices) bind(flags *pflag.FlagSet) {
	flags.Float64Var(&p.gets, "price-gets", 0.0004, "with --plan: dollars for 1,000 reads of the store")
	flags.Float64Var(&p.lists, "price-lists", 0.005, "with --plan: dollars for 1,000 lists of the store")
	flags.Float64Var(&p.bytes, "price-gb", 0.09, "with --plan: dollars for a gigabyte that leaves the store")
}

// recoverPlan is what recover --plan prints.
type recoverPlan struct {
	LogID     eventlog.ID `json:"log_id"`
	Archive   string      `json:"archive"`
	Free      uint64      `json:"free_disk_bytes"`   // where --data is to be
	Missing   string      `json:"missing,omitempty"` // "" when nothing is
	*estimate             // nil when something is missing: none of it is known then
}

// estimate is what a whole archive holds and its recovery takes. What is
// estimated comes from a sample of the archive's beginning.
type estimate struct {
	Objects   int          `json:"objects"`
	Bytes     int64        `json:"archive_bytes"`
	Last      eventlog.Seq `json:"last_seq"`
	Sampled   int          `json:"sampled_objects"`
	Broken    string       `json:"broken_rule,omitempty"` // why there was no sample, and how long it takes is not known
	Indexed   int          `json:"indexed_objects"`       // whose metadata index objects have
	Events    uint64       `json:"estimated_events"`
	Read      uint64       `json:"estimated_bytes_read"`
	Requests  uint64       `json:"estimated_requests"`
	Dollars   float64      `json:"estimated_dollars"`
	Disk      uint64       `json:"estimated_disk_bytes"` // at most, while it runs
	Seconds   float64      `json:"estimated_seconds"`
	PerSecond float64      `json:"estimated_events_per_second"`
	Listing   float64      `json:"listing_seconds"` // of Seconds; it was done
	// Checkpoint is what the recovery would begin from: then only its bytes
	// are transferred, and the events of Tail projected. nil: none. What is
	// estimated above is without it.
	Checkpoint *recovery.Checkpoint `json:"checkpoint,omitempty"`
	Tail       uint64               `json:"events_after_checkpoint,omitempty"`
	FromDisk   uint64               `json:"disk_bytes_from_checkpoint,omitempty"`
	// What the recovery from the checkpoint reads, costs and takes, about, at
	// the rate at which a sample of its files came.
	FromRead     uint64  `json:"estimated_bytes_read_from_checkpoint,omitempty"`
	FromRequests uint64  `json:"estimated_requests_from_checkpoint,omitempty"`
	FromRate     float64 `json:"checkpoint_bytes_per_second,omitempty"`
	FromDollars  float64 `json:"estimated_dollars_from_checkpoint,omitempty"`
	FromSeconds  float64 `json:"estimated_seconds_from_checkpoint,omitempty"`
}

// sampleTime is how long the sample is read and projected, and how long, at
// most, files of a checkpoint are read; sampleBytes, how much of them.
const (
	sampleTime  = 5 * time.Second
	sampleBytes = 256 << 20
)

func printPlan(ctx context.Context, g *globals, cfg *Config, asked *recoverFlags, bucket *archiver.AdaptiveBucket, archive *archiver.Archive, out io.Writer) error {
	plan, err := makePlan(ctx, cfg, asked, bucket, archive)
	if err != nil {
		return fmt.Errorf("planning a recovery from %v: %w", bucket, err)
	}
	if err := g.print(out, plan, func(w io.Writer) error { return plan.print(w) }); err != nil {
		return err
	}
	if plan.Missing != "" {
		return withCode(exitDamage, errors.New(plan.Missing))
	}
	if plan.Broken != "" && plan.Checkpoint == nil {
		return withCode(exitDamage, errors.New(plan.Broken))
	}
	need := plan.Disk
	if plan.Checkpoint != nil {
		need = plan.FromDisk
	}
	if need > plan.Free {
		return tooLittleDisk(need, plan.Free, cfg.Data, "--data"+orSkip)
	}
	return nil
}

// orSkip is, in a refusal for too little disk, how a recovery goes on all the
// same.
const orSkip = ", or go on all the same with --skip-disk-check"

func tooLittleDisk(need, free uint64, dir, remedy string) error {
	return withCode(exitRefused, fmt.Errorf("about %s of disk are needed, %s are free where %s is: name a directory on a larger one with %s",
		humanize.IBytes(need), humanize.IBytes(free), dir, remedy))
}

// roomAt refuses to begin what does not fit on the disk of dir; nil when it is
// not to be asked. flag is the one that names another directory.
func (f *recoverFlags) roomAt(dir, flag string) func(uint64) error {
	if f.skipDisk {
		return nil
	}
	return roomAt(dir, flag+orSkip)
}

// roomAt refuses to begin what does not fit on the disk of dir; remedy is the
// flag that names another directory.
func roomAt(dir, remedy string) func(uint64) error {
	return func(need uint64) error {
		free, err := freeDisk(dir)
		if err == nil && need > free {
			return tooLittleDisk(need, free, dir, remedy)
		}
		return err
	}
}

func makePlan(ctx context.Context, cfg *Config, asked *recoverFlags, bucket *archiver.AdaptiveBucket, archive *archiver.Archive) (*recoverPlan, error) {
	plan := &recoverPlan{LogID: archive.LogID(), Archive: cfg.Archive}
	var err error
	if plan.Free, err = freeDisk(cfg.Data); err != nil {
		return nil, err
	}
	var checkpoints recovery.Checkpoints
	shelf := newShelf(archive, "", nil)
	if !asked.full {
		checkpoints = shelf
	}
	until, err := asked.asOf.resolve(ctx, archive, nil)
	if err != nil {
		return nil, err
	}
	found, err := recovery.Look(ctx, archive, checkpoints, until)
	if errors.Is(err, archiver.ErrHole) {
		plan.Missing = err.Error()
		return plan, nil
	}
	if err != nil {
		return nil, err
	}
	plan.estimate = &estimate{
		Objects: found.Objects, Bytes: found.Bytes, Last: found.Last, Events: found.Events, Disk: found.Disk, Listing: found.Listing.Seconds(),
		Checkpoint: found.Checkpoint, Tail: found.Tail, FromDisk: found.FromDisk,
	}
	lists := bucket.Stats().Lists
	sample, err := sampleFor(ctx, cfg.Data, plan.Free/2, asked.waivers, found)
	if violation := (*projector.Violation)(nil); errors.As(err, &violation) {
		plan.Broken, sample, err = violation.Error(), &recovery.Sampled{}, nil
	}
	if err != nil {
		return nil, err
	}
	gets := plan.extrapolate(sample, lists, found.Cost, &asked.prices)
	if plan.Checkpoint == nil {
		return plan, nil
	}
	plan.FromRate, err = shelf.Rate(ctx, *plan.Checkpoint, sampleTime, sampleBytes)
	if errors.Is(err, recovery.ErrUnfit) { // recover would go back, at most to the first event
		slog.Warn("the newest checkpoint cannot be used; this is the plan of a recovery from the first event", "checkpoint", plan.Checkpoint.Name, "err", err)
		plan.Checkpoint, plan.Tail, plan.FromDisk = nil, 0, 0
		return plan, nil
	}
	if err != nil {
		return nil, err
	}
	plan.fromCheckpoint(sample, gets, &asked.prices)
	return plan, nil
}

// sampleFor recovers a sample on the disk where data is to be, whose speed is
// what the recovery will have. It takes at most about so many bytes of it.
func sampleFor(ctx context.Context, data string, disk uint64, waivers []archiver.Waiver, found *recovery.Found) (*recovery.Sampled, error) {
	parent, err := existing(data)
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp(parent, "strandline-plan-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the sample where %s is to be: %w; name a place that can be written to with --data", data, err)
	}
	sample, err := found.Sample(ctx, kv.OnDisk(slog.Default()), scratch, waivers, sampleTime, disk)
	return sample, errors.Join(err, os.RemoveAll(scratch))
}

// extrapolate takes the sample for all of the archive. What is to be read needs
// none: it is listed. It returns the reads for all events.
func (p *estimate) extrapolate(sample *recovery.Sampled, lists uint64, cost archiver.Cost, prices *prices) float64 {
	p.Sampled, p.Indexed = sample.Objects, cost.Indexed
	p.Read = cost.Bytes + cost.SingleBytes
	gets := float64(cost.Gets) + float64(cost.Single)
	p.Requests = uint64(gets) + lists
	p.Dollars = gets/1000*prices.gets + float64(lists)/1000*prices.lists + float64(p.Read)/1e9*prices.bytes
	if sample.Seconds > 0 {
		p.PerSecond = float64(sample.Events) / sample.Seconds
		p.Seconds = p.Listing + float64(p.Events)/p.PerSecond
	}
	return gets
}

// fromCheckpoint says the same of a recovery from the checkpoint: its bytes are
// known, and its tail is taken for a part of all events that is like the rest.
// gets are the reads for all events.
func (p *estimate) fromCheckpoint(sample *recovery.Sampled, gets float64, prices *prices) {
	bytes := float64(max(p.Checkpoint.Bytes, 0))
	part := float64(p.Tail) / float64(max(p.Events, 1))
	gets = gets*part + float64(p.Checkpoint.Files)
	p.FromRead, p.FromRequests = uint64(bytes+float64(p.Read)*part), uint64(gets)
	p.FromDollars = gets/1000*prices.gets + float64(p.FromRead)/1e9*prices.bytes
	p.FromSeconds = p.Listing
	if p.FromRate > 0 { // nothing comes of a checkpoint without any byte
		p.FromSeconds += bytes / p.FromRate
	}
	if sample.Events > 0 {
		p.FromSeconds += sample.VerifySeconds / float64(sample.Events) * float64(p.Events)
	}
	switch { // a tail is looked up
	case sample.Tail > 0:
		p.FromSeconds += sample.TailSeconds / float64(sample.Tail) * float64(p.Tail)
	case p.PerSecond > 0: // an archive of few objects
		p.FromSeconds += float64(p.Tail) / p.PerSecond
	}
}

// statfs asks for a disk; tests have smaller ones.
var statfs = unix.Statfs

// freeDisk returns what is free where path is, or is to be.
func freeDisk(path string) (uint64, error) {
	there, err := existing(path)
	if err != nil {
		return 0, err
	}
	var stat unix.Statfs_t
	if err := statfs(there, &stat); err != nil {
		return 0, fmt.Errorf("ask for the free disk at %s: %w", there, err)
	}
	return stat.Bavail * uint64(stat.Bsize), nil //nolint:gosec,unconvert // never negative; signed on some systems
}

// existing returns path, or the nearest of its parents that is there.
func existing(path string) (string, error) {
	for {
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		parent := filepath.Dir(path)
		if !errors.Is(err, fs.ErrNotExist) || parent == path {
			return "", fmt.Errorf("look where %s is to be: %w", path, err)
		}
		path = parent
	}
}

func (p *recoverPlan) print(w io.Writer) error {
	if p.Missing != "" {
		_, err := fmt.Fprintf(w, "MISSING  %s\n", p.Missing)
		return err
	}
	fmt.Fprintf(w, "archive  %s, log %s\n", p.Archive, p.LogID)
	fmt.Fprintf(w, "holds    %d objects, %s, up to event %s; none is missing\n", p.Objects, humanize.IBytes(uint64(max(p.Bytes, 0))), p.Last)
	fmt.Fprintf(w, "index    index objects have the metadata of %d of them\n", p.Indexed)
	if p.Broken == "" {
		fmt.Fprintf(w, "sampled  the first %d objects; from them, about:\n", p.Sampled)
	} else {
		fmt.Fprintf(w, "BROKEN   a recovery from the first event is refused without a waiver, and how long it takes was not found out: %s\n", p.Broken)
	}
	fmt.Fprintf(w, "read     %d requests, %s of metadata, no payload: $%.2f\n", p.Requests, humanize.IBytes(p.Read), p.Dollars)
	fmt.Fprintf(w, "disk     %s while it runs, %s are free\n", humanize.IBytes(p.Disk), humanize.IBytes(p.Free))
	if c := p.Checkpoint; c != nil {
		fmt.Fprintf(w, "instead  checkpoint %s as of event %s: %s to transfer in %d requests, then about %d events, %s of disk: $%.2f and %s, at %.0f MB/s; the lines above and below are for --full\n",
			c.Name, c.Seq, humanize.IBytes(uint64(max(c.Bytes, 0))), p.FromRequests, p.Tail, humanize.IBytes(p.FromDisk), p.FromDollars, p.time(p.FromSeconds), p.FromRate/1e6)
	}
	_, err := fmt.Fprintf(w, "time     %s for %d events, %.0f a second\n", p.time(p.Seconds), p.Events, p.PerSecond)
	return err
}

// time prints how long something takes, if that was found out.
func (p *estimate) time(seconds float64) string {
	if p.Broken != "" {
		return "unknown"
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Second / 10).String()
}
