// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
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
const (
	failureBurst = 20
	failureEvery = 3 * time.Second
	longestTurn  = 30 * time.Second
	sweepEvery   = time.Minute
)

// failureLimit counts wrong passwords by source. Right ones cost nothing.
type failureLimit struct {
	mu      sync.Mutex
	sources map[netip.Prefix]*failures // guarded by mu
	swept   time.Time                  // guarded by mu
}

type failures struct {
	left    *rate.Limiter
	pending int // admitted and not settled: each may still turn out wrong
}

func newFailureLimit() failureLimit {
	return failureLimit{sources: map[netip.Prefix]*failures{}}
}

// admit says how long one more password has to wait for its turn, and whether
// it may. Every admitted one must be settled.
func (l *failureLimit) admit(source netip.Prefix, now time.Time) (turn time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweepLocked(now)
	f := l.sources[source]
	if f == nil {
		f = &failures{left: rate.NewLimiter(rate.Every(failureEvery), failureBurst)}
		l.sources[source] = f
	}
	missing := 1 - (f.left.TokensAt(now) - float64(f.pending))
	turn = max(0, time.Duration(missing*float64(failureEvery)))
	if turn > longestTurn {
		return turn, false
	}
	f.pending++
	return turn, true
}

// settle ends an admitted try.
func (l *failureLimit) settle(source netip.Prefix, now time.Time, right bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.sources[source]
	f.pending--
	if !right {
		f.left.ReserveN(now, 1)
	}
}

// sweepLocked forgets sources that have nothing left to be forgiven.
func (l *failureLimit) sweepLocked(now time.Time) {
	if now.Sub(l.swept) < sweepEvery {
		return
	}
	l.swept = now
	for source, f := range l.sources {
		if f.pending == 0 && f.left.TokensAt(now) >= failureBurst {
			delete(l.sources, source)
		}
	}
}

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
