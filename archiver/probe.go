// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Report is what Probe found out about a bucket.
type Report struct {
	Bucket string
	Took   time.Duration
	Checks []ProbeCheck
	Left   []string // objects of the probe that could not be deleted
}

// ProbeCheck is one thing that was tried.
type ProbeCheck struct {
	Name     string // what an archive needs, as a sentence
	Required bool   // without it the bucket cannot hold an archive
	Err      error  // nil: the bucket can
}

// OK reports whether the bucket can hold an archive.
func (r Report) OK() bool {
	return !slices.ContainsFunc(r.Checks, func(c ProbeCheck) bool { return c.Required && c.Err != nil })
}

// neverReplaces is what everything rests on.
const neverReplaces = "a put never replaces an object"

const (
	probePrefix  = "probe/"
	probeKeys    = 16
	probeWriters = 32
	probeSize    = 16 << 10 // bytes of a racing object
)

// Probe tries out whether bucket keeps what Bucket promises: above all that
// of many puts of one key at the same moment exactly one wins. It writes below
// "probe/" and deletes that again. What the bucket cannot do is in the report;
// an error means that the bucket could not be asked at all.
func Probe(ctx context.Context, bucket Bucket) (Report, error) {
	started := time.Now()
	p := &probe{bucket: bucket, prefix: probePrefix + rand.Text() + "/"}
	report := Report{Bucket: bucket.String()}
	err := p.put(ctx, "reach", []byte("reach"))
	if errors.Is(err, ErrUnsupported) {
		report.Checks = []ProbeCheck{{Name: neverReplaces, Required: true, Err: err}}
		return report, nil
	}
	if err != nil {
		return report, fmt.Errorf("probe %v: %w", bucket, err)
	}
	for _, check := range []struct {
		name     string
		required bool
		try      func(context.Context) error
	}{
		{neverReplaces, true, p.neverReplaces},
		{"of many puts of one key at once exactly one wins", true, p.oneWinner},
		{"an object that was put is listed at once, after the keys before it", true, p.listAfterPut},
		{"any range of an object can be read", true, p.ranges},
		{"an absent object is called absent", true, p.absence},
		{"a put with a wrong checksum is refused", false, p.checksum},
		{"objects can be deleted", false, p.deletes},
	} {
		err := check.try(ctx)
		if ctx.Err() != nil {
			return report, fmt.Errorf("probe %v: %w", bucket, context.Cause(ctx))
		}
		report.Checks = append(report.Checks, ProbeCheck{Name: check.name, Required: check.required, Err: err})
	}
	report.Left = p.cleanUp(ctx)
	report.Took = time.Since(started)
	return report, nil
}

// probe is one run of Probe.
type probe struct {
	bucket Bucket
	prefix string // of this run's keys
}

func (p *probe) put(ctx context.Context, name string, data []byte) error {
	return p.bucket.PutIfAbsent(ctx, p.prefix+name, BytesBody(data))
}

func (p *probe) read(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	r, err := p.bucket.GetRange(ctx, p.prefix+name, offset, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

func (p *probe) neverReplaces(ctx context.Context) error {
	if err := p.put(ctx, "once", []byte("first")); err != nil {
		return err
	}
	if err := p.put(ctx, "once", []byte("second")); !errors.Is(err, ErrExists) {
		return fmt.Errorf("the second put of a key was answered with: %w", orSuccess(err))
	}
	data, err := p.read(ctx, "once", 0, -1)
	if err == nil && string(data) != "first" {
		err = errors.New("the second put replaced the object")
	}
	return err
}

// orSuccess makes an error of no error.
func orSuccess(err error) error {
	if err == nil {
		return errors.New("success")
	}
	return err
}

func (p *probe) oneWinner(ctx context.Context) error {
	for i := range probeKeys {
		name := fmt.Sprintf("race-%02d", i)
		winners, others := p.race(ctx, name)
		if len(winners) != 1 {
			return fmt.Errorf("%d of %d writers of %s won; the others were told: %w", len(winners), probeWriters, p.prefix+name, orSuccess(errors.Join(others...)))
		}
		data, err := p.read(ctx, name, 0, -1)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, raceBody(winners[0])) {
			return fmt.Errorf("%s does not hold what its winner put", p.prefix+name)
		}
	}
	return nil
}

// race lets all writers put name at the same moment and returns who won, and
// the errors of the others that are not ErrExists.
func (p *probe) race(ctx context.Context, name string) (winners []int, others []error) {
	results := make([]error, probeWriters)
	barrier := make(chan struct{})
	var running sync.WaitGroup
	for i := range results {
		running.Go(func() {
			<-barrier
			results[i] = p.put(ctx, name, raceBody(i))
		})
	}
	close(barrier)
	running.Wait()
	for i, err := range results {
		switch {
		case err == nil:
			winners = append(winners, i)
		case !errors.Is(err, ErrExists):
			others = append(others, err)
		}
	}
	return winners, others
}

func raceBody(writer int) []byte { return bytes.Repeat([]byte{byte(writer)}, probeSize) }

func (p *probe) listAfterPut(ctx context.Context) error {
	names := []string{"list/1", "list/2", "list/3"}
	for i, name := range names {
		if err := p.put(ctx, name, nil); err != nil {
			return err
		}
		if got, err := p.list(ctx, "list/", ""); err != nil || !slices.Equal(got, names[:i+1]) {
			return errors.Join(err, fmt.Errorf("after putting %q the list is %q", names[:i+1], got))
		}
	}
	if got, err := p.list(ctx, "list/", "list/1"); err != nil || !slices.Equal(got, names[1:]) {
		return errors.Join(err, fmt.Errorf("the list after %q is %q", names[0], got))
	}
	return nil
}

func (p *probe) list(ctx context.Context, prefix, after string) ([]string, error) {
	if after != "" {
		after = p.prefix + after
	}
	var names []string
	for info, err := range p.bucket.List(ctx, p.prefix+prefix, after) {
		if err != nil {
			return names, err
		}
		names = append(names, info.Key[len(p.prefix):])
	}
	return names, nil
}

func (p *probe) ranges(ctx context.Context) error {
	data := make([]byte, 1000)
	for i := range data {
		data[i] = byte(i % 251)
	}
	if err := p.put(ctx, "ranges", data); err != nil {
		return err
	}
	for _, r := range []struct {
		offset, length int64
		want           []byte
	}{{0, -1, data}, {0, 1, data[:1]}, {100, 50, data[100:150]}, {990, 100, data[990:]}, {-144, -1, data[856:]}, {-5000, -1, data}} {
		if got, err := p.read(ctx, "ranges", r.offset, r.length); err != nil || !bytes.Equal(got, r.want) {
			return errors.Join(err, fmt.Errorf("%d bytes from %d of a 1,000-byte object: got %d, not the right ones", r.length, r.offset, len(got)))
		}
	}
	return nil
}

func (p *probe) absence(ctx context.Context) error {
	if _, err := p.bucket.Head(ctx, p.prefix+"absent"); !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("asking for an absent object was answered with: %w (a missing permission to list the bucket does that)", orSuccess(err))
	}
	if _, err := p.read(ctx, "absent", 0, -1); !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("reading an absent object was answered with: %w", orSuccess(err))
	}
	return nil
}

func (p *probe) checksum(ctx context.Context) error {
	body := BytesBody([]byte("checksum"))
	body.Checksum ^= 1
	if err := p.bucket.PutIfAbsent(ctx, p.prefix+"checksum", body); err == nil {
		return errors.New("it was taken")
	}
	if _, err := p.bucket.Head(ctx, p.prefix+"checksum"); !errors.Is(err, ErrNotFound) {
		return errors.New("it was taken, and found wrong only by reading it back: every object will be read back")
	}
	return nil
}

func (p *probe) deletes(ctx context.Context) error {
	if err := p.put(ctx, "delete", nil); err != nil {
		return err
	}
	if err := p.bucket.Delete(ctx, p.prefix+"delete"); err != nil {
		return err
	}
	if _, err := p.bucket.Head(ctx, p.prefix+"delete"); !errors.Is(err, ErrNotFound) {
		return errors.New("a deleted object is still there")
	}
	return nil
}

// cleanUp deletes what the probe put and returns the keys that stay.
func (p *probe) cleanUp(ctx context.Context) []string {
	names, err := p.list(ctx, "", "")
	if err != nil {
		return []string{p.prefix}
	}
	var left []string
	for _, name := range names {
		if err := p.bucket.Delete(ctx, p.prefix+name); err != nil {
			left = append(left, p.prefix+name)
		}
	}
	return left
}
