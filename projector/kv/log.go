// SPDX-License-Identifier: Apache-2.0

package kv

import (
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
)

// logger hands Pebble's words to slog.
type logger struct{ log *slog.Logger }

func (l logger) Infof(format string, args ...any)  { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l logger) Errorf(format string, args ...any) { l.log.Error(fmt.Sprintf(format, args...)) }

// Fatalf must not return: Pebble calls it when it cannot keep its promises
// any more, from a goroutine of its own as well as from a caller's.
func (l logger) Fatalf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.log.Error("a view's store failed: " + text)
	panic("view store: " + text)
}

// events keeps what an operator needs of Pebble's events.
func (s *store) events() pebble.EventListener {
	log := s.log
	listener := pebble.EventListener{
		BackgroundError: s.ground.background,
		FlushEnd:        func(pebble.FlushInfo) { s.flushed.Store(true) },
		CompactionEnd: func(pebble.CompactionInfo) {
			select {
			case s.compacted <- struct{}{}:
			default:
			}
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			log.Error("a view's store is damaged; discard the view and project it again", "what", info.String())
		},
		DiskSlow: func(info pebble.DiskSlowInfo) { log.Warn("slow disk under a view", "what", info.String()) },
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			log.Warn("writes to a view wait for its flush", "reason", info.Reason)
		},
		WriteStallEnd: func() { log.Info("writes to a view go on") },
		LowDiskSpace: func(info pebble.LowDiskSpaceInfo) {
			log.Warn("little disk space under a view", "what", info.String())
		},
	}
	listener.EnsureDefaults(nil)
	return listener
}
