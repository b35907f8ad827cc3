// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"maps"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A source (an address; of IPv6 its /64) may fail this often at once, and then
// once in failureEvery: passwords that nobody knows yet to be right wait for
// their turn, and are then looked at, so a wrong one is 401 and a right one goes
// in. Only those that would wait for longer than longestTurn are told to come
// again. restic before 0.17 tries a wrong password ten times.
//
// Behind each source every user of the file has a share of his own, which the
// failures of other names do not touch: while it lasts, his password is looked
// at without a turn. So whoever guesses at other names locks nobody out. Who
// guesses at his, from his own address, can still do that: nothing tells the
// two apart before a password was right once.
const (
	failureBurst = 20
	failureEvery = 3 * time.Second
	longestTurn  = 30 * time.Second
	shareBurst   = 5
	shareEvery   = time.Minute
	sweepEvery   = time.Minute
	maxCounted   = 1 << 16 // sources, and shares: who has more addresses than that is not held up by counting
)

// failureLimit counts wrong passwords by source, and by source and user. Right
// ones cost nothing.
type failureLimit struct {
	mu      sync.Mutex
	sources map[netip.Prefix]*failures // guarded by mu, as are all failures
	shares  map[share]*failures        // guarded by mu
	swept   time.Time                  // guarded by mu
}

// share names a user of the file behind a source.
type share struct {
	source netip.Prefix
	user   string
}

type failures struct {
	left    *rate.Limiter
	pending int // looked at and not settled: each may still turn out wrong
}

// free is how many more may be looked at.
func (f *failures) free(now time.Time) float64 { return f.left.TokensAt(now) - float64(f.pending) }

func newFailureLimit() failureLimit {
	return failureLimit{sources: map[netip.Prefix]*failures{}, shares: map[share]*failures{}}
}

// counted returns the failures of key. Where too many are counted, any other is
// forgotten for it.
func counted[K comparable](all map[K]*failures, key K, every time.Duration, burst int) *failures {
	if f := all[key]; f != nil {
		return f
	}
	for other := range all {
		if len(all) < maxCounted {
			break
		}
		delete(all, other)
	}
	f := &failures{left: rate.NewLimiter(rate.Every(every), burst)}
	all[key] = f
	return f
}

// ahead takes a try from the share of a user of the file; nil when the share is
// used up.
func (l *failureLimit) ahead(source netip.Prefix, user string, now time.Time) *failures {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweepLocked(now)
	f := counted(l.shares, share{source, user}, shareEvery, shareBurst)
	if f.free(now) < 1 {
		return nil
	}
	f.pending++
	return f
}

// admit says how long one more password has to wait for its turn; nil when that
// is too long. What is not nil must be settled.
func (l *failureLimit) admit(source netip.Prefix, now time.Time) (*failures, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweepLocked(now)
	f := counted(l.sources, source, failureEvery, failureBurst)
	turn := max(0, time.Duration((1-f.free(now))*float64(failureEvery)))
	if turn > longestTurn {
		return nil, turn
	}
	f.pending++
	return f, turn
}

// settle ends a try.
func (l *failureLimit) settle(f *failures, now time.Time, right bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.pending--
	if !right {
		f.left.ReserveN(now, 1)
	}
}

// sweepLocked forgets what has nothing left to be forgiven.
func (l *failureLimit) sweepLocked(now time.Time) {
	if now.Sub(l.swept) < sweepEvery {
		return
	}
	l.swept = now
	sweep(l.sources, now)
	sweep(l.shares, now)
}

func sweep[K comparable](all map[K]*failures, now time.Time) {
	maps.DeleteFunc(all, func(_ K, f *failures) bool {
		return f.pending == 0 && f.left.TokensAt(now) >= float64(f.left.Burst())
	})
}

// sourceOf is what a request's failures are counted by. Where a proxy stands
// before the server this is the proxy; whom to believe about the client behind
// it would be decided here, and nowhere else.
func sourceOf(r *http.Request) netip.Prefix { return remoteSource(r.RemoteAddr) }

// remoteSource is what failures are counted by; all of a Unix socket's clients
// are one source.
func remoteSource(remoteAddr string) netip.Prefix {
	addr, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	ip := addr.Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil { // not reached: bits suits the address
		return netip.Prefix{}
	}
	return p
}
