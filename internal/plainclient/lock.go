// SPDX-License-Identifier: Apache-2.0

package plainclient

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// refreshEvery is how often a running backup stores a new lock and deletes
// the one before, as restic does.
const refreshEvery = 5 * time.Minute

// lockInfo is the content of a lock. Locks of this client are shared: they
// tell the server that a session runs, and never keep another backup out.
type lockInfo struct {
	Time  time.Time `json:"time"`
	Host  string    `json:"host"`
	PID   int       `json:"pid"`
	Nonce string    `json:"nonce"` // makes the block's name unique
}

// lock is a session's lock; it renews itself until release.
type lock struct {
	client *Client
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex // held while a lock is replaced, and while it is looked at
	name string     // of the newest lock; owned by mu
	err  error      // what ended the renewal, if not release; owned by the renewing goroutine until done
}

// acquire stores a lock in restic's order (list, store, list again) and starts
// renewing it. The returned context ends when the lock can no longer be
// renewed; the caller releases the lock in any case.
func (c *Client) acquire(ctx context.Context) (*lock, context.Context, error) {
	if _, err := c.list(ctx, "locks"); err != nil {
		return nil, nil, fmt.Errorf("list the locks: %w", err)
	}
	name, err := c.storeLock(ctx)
	if err != nil {
		return nil, nil, err
	}
	session, cancel := context.WithCancelCause(ctx)
	l := &lock{client: c, name: name, stop: func() { cancel(context.Canceled) }}
	if err := c.seesLock(ctx, name); err != nil {
		return nil, nil, errors.Join(err, l.release(ctx))
	}
	l.done.Go(func() {
		if l.err = l.renew(session); l.err != nil {
			cancel(l.err)
		}
	})
	return l, session, nil
}

func (c *Client) storeLock(ctx context.Context) (string, error) {
	body, err := json.Marshal(lockInfo{Time: time.Now().UTC(), Host: c.opts.Host, PID: os.Getpid(), Nonce: rand.Text()})
	if err != nil {
		return "", fmt.Errorf("encode a lock: %w", err)
	}
	name, err := c.put(ctx, "locks", body)
	if err != nil {
		return "", fmt.Errorf("store a lock: %w", err)
	}
	return name, nil
}

// seesLock checks that the server lists what it has just acknowledged: without
// that, no lock means anything.
func (c *Client) seesLock(ctx context.Context, name string) error {
	rows, err := c.list(ctx, "locks")
	if err != nil {
		return fmt.Errorf("list the locks again: %w", err)
	}
	for _, row := range rows {
		if row.Name == name {
			return nil
		}
	}
	return fmt.Errorf("the server does not list lock %s, which it has acknowledged", name)
}

// renew replaces the lock every refreshEvery until ctx ends.
func (l *lock) renew(ctx context.Context) error {
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := l.replace(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("renew the lock: %w", err)
		}
	}
}

// replace stores the new lock before it deletes the old one, so that there is
// always one. The old one must still be there: if someone removed it, the
// session is over.
func (l *lock) replace(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.client.seesLock(ctx, l.name); err != nil {
		return fmt.Errorf("the session's lock is gone: %w", err)
	}
	name, err := l.client.storeLock(ctx)
	if err != nil {
		return err
	}
	old := l.name
	l.name = name
	return l.client.remove(ctx, "locks", old)
}

// check says whether the session's lock is still there: what makes a backup
// visible may only be sent under it. If a server was lost meanwhile, and what
// this session sent with it, the lock is gone or about to be.
func (l *lock) check(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.client.seesLock(ctx, l.name); err != nil {
		return fmt.Errorf("the session's lock is gone, so what it has stored may be, too; begin again: %w", err)
	}
	return nil
}

// release ends the renewal and deletes the lock, also when ctx has ended (for
// up to 30 s then).
func (l *lock) release(ctx context.Context) error {
	l.stop()
	l.done.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := l.client.remove(ctx, "locks", l.name); err != nil {
		return fmt.Errorf("delete lock %s: %w", l.name, err)
	}
	return nil
}

// Unlock deletes every lock of the path, whoever holds it, and returns how
// many there were. Call it only when no backup is running: it is for locks
// that killed clients left.
func (c *Client) Unlock(ctx context.Context) (int, error) {
	rows, err := c.list(ctx, "locks")
	if err != nil {
		return 0, fmt.Errorf("list the locks: %w", err)
	}
	for i, row := range rows {
		if err := c.remove(ctx, "locks", row.Name); err != nil {
			return i, fmt.Errorf("delete lock %s: %w", row.Name, err)
		}
	}
	return len(rows), nil
}
