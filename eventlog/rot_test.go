// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"os"
	"slices"
	"testing"
)

// Whatever became of a closed generation's file, it is told as rot. Only where
// payloads alone are damaged are they named, each of them, to be let go.
func TestWhateverRotsIsToldAsRotAndPayloadsAreNamed(t *testing.T) {
	flip := func(offsets ...func(g *Generation) uint64) func(t *testing.T, g *Generation) {
		return func(t *testing.T, g *Generation) {
			b, err := os.ReadFile(g.Path())
			must(t, err)
			for _, offset := range offsets {
				b[offset(g)] ^= 1
			}
			must(t, os.WriteFile(g.Path(), b, 0o600))
		}
	}
	at := func(n uint64) func(*Generation) uint64 { return func(*Generation) uint64 { return n } }
	footer := func(g *Generation) uint64 { return g.Trailer.FooterOffset + 10 }
	trailer := func(g *Generation) uint64 { return g.Trailer.FooterOffset + g.Trailer.FooterSize + 20 }
	const size = maxCarried + 100
	first, third := uint64(len(ObjectMagic)+5), uint64(len(ObjectMagic)+2*size+5)
	for name, tc := range map[string]struct {
		spoil    func(t *testing.T, g *Generation)
		payloads []int // indexes of the damaged blocks
	}{
		"a payload":             {flip(at(first)), []int{0}},
		"two payloads":          {flip(at(third), at(first)), []int{0, 2}},
		"a payload and footer":  {flip(at(first), footer), nil},
		"a payload and trailer": {flip(at(first), trailer), nil},
		"a payload and magic":   {flip(at(first), at(1)), nil},
		"the magic":             {flip(at(1)), nil},
		"the footer":            {flip(footer), nil},
		"the trailer":           {flip(trailer), nil},
		"all of it":             {func(t *testing.T, g *Generation) { must(t, os.Truncate(g.Path(), 0)) }, nil},
		"its end": {func(t *testing.T, g *Generation) {
			must(t, os.Truncate(g.Path(), int64(g.Trailer.FooterOffset)))
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := fastState(t)
			l := s.open(nil)
			var seqs []Seq
			for i := range 3 {
				seqs = append(seqs, committed(t, store(t, l, content(uint64(i+1), size))))
			}
			must(t, l.Close(false))
			l = s.open(nil)
			g := l.Local()[0]
			g.forget()
			tc.spoil(t, g)
			_, err := g.Checksum()
			var rot *Rot
			if !errors.As(err, &rot) || !errors.Is(err, ErrDamaged) {
				t.Fatalf("not told as rot: %v", err)
			}
			var want []Seq
			for _, i := range tc.payloads {
				want = append(want, seqs[i])
			}
			if !slices.Equal(rot.Payloads, want) {
				t.Errorf("named are %v, want %v: %v", rot.Payloads, want, err)
			}
			if err := l.Close(false); err != nil {
				t.Logf("closing over what has rotted: %v", err)
			}
		})
	}
}
