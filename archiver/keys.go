// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"fmt"
	"strconv"
	"strings"
)

// The keys of an archive. Numbers are decimal and of fixed width, so that byte
// order is numerical order.
const (
	ManifestKey = "strandline.json"
	LogPrefix   = "log/"
	EpochPrefix = "epoch/"
	IndexPrefix = "index/"

	ordinalDigits  = 16
	revisionDigits = 4
	epochDigits    = 10
	maxOrdinal     = 9_999_999_999_999_999
	maxRevision    = 9_999
)

// RunSize is how many ordinals are cleaned together: a run begins at ordinal
// 1, 257, 513 and so on. A cleaned object covers ordinals of one run only.
const RunSize = 256

// runStart returns the first ordinal of ordinal's run.
func runStart(ordinal uint64) uint64 { return (max(ordinal, 1)-1)/RunSize*RunSize + 1 }

// runOf returns the number of ordinal's run, from 1: the run n is complete
// with the object of ordinal n * RunSize.
func runOf(ordinal uint64) uint64 { return (max(ordinal, 1)-1)/RunSize + 1 }

// IndexInfo names one index object: the run whose footers it has, from 1, how
// often it was written anew, and its size in bytes.
type IndexInfo struct {
	Run      uint64
	Revision uint16
	Size     int64
}

// Ordinals returns the first and the last ordinal of the run.
func (i IndexInfo) Ordinals() (first, last uint64) { return (i.Run-1)*RunSize + 1, i.Run * RunSize }

// Key returns the index object's key in the bucket.
func (i IndexInfo) Key() string {
	return fmt.Sprintf("%s%0*d.%0*d", IndexPrefix, ordinalDigits, i.Run, revisionDigits, i.Revision)
}

// String names the index object for people.
func (i IndexInfo) String() string {
	first, last := i.Ordinals()
	return fmt.Sprintf("the index object of ordinals %d to %d (%s)", first, last, i.Key())
}

// ParseIndexKey reads an index object's key as Key makes it, and nothing else.
// The size stays 0.
func ParseIndexKey(key string) (IndexInfo, error) {
	name, ok := strings.CutPrefix(key, IndexPrefix)
	if !ok || len(name) != ordinalDigits+revisionDigits+1 || name[ordinalDigits] != '.' {
		return IndexInfo{}, fmt.Errorf("key %q is not an index object's", key)
	}
	run, err1 := parseDigits(name[:ordinalDigits])
	revision, err2 := parseDigits(name[ordinalDigits+1:])
	if err1 != nil || err2 != nil || run == 0 || run > maxOrdinal/RunSize {
		return IndexInfo{}, fmt.Errorf("key %q is not an index object's", key)
	}
	return IndexInfo{Run: run, Revision: uint16(revision)}, nil
}

// ObjectInfo names one object of the log: the ordinals it covers, first to
// last, how often they were cleaned, and its size in bytes.
type ObjectInfo struct {
	First, Last uint64
	Revision    uint16
	Size        int64
}

// Key returns the object's key in the bucket.
func (o ObjectInfo) Key() string {
	return fmt.Sprintf("%s%0*d-%0*d.%0*d", LogPrefix, ordinalDigits, o.First, ordinalDigits, o.Last, revisionDigits, o.Revision)
}

// String names the object for people.
func (o ObjectInfo) String() string {
	if o.First == o.Last {
		return fmt.Sprintf("ordinal %d (%s)", o.First, o.Key())
	}
	return fmt.Sprintf("ordinals %d to %d (%s)", o.First, o.Last, o.Key())
}

// Shipped names the object as which the generation of that ordinal is
// shipped: alone, never cleaned. Its size is not known.
func Shipped(ordinal uint64) ObjectInfo { return ObjectInfo{First: ordinal, Last: ordinal} }

// ParseLogKey reads an object's key as Key makes it, and nothing else. The
// size stays 0.
func ParseLogKey(key string) (ObjectInfo, error) {
	name, ok := strings.CutPrefix(key, LogPrefix)
	if !ok || len(name) != 2*ordinalDigits+revisionDigits+2 || name[ordinalDigits] != '-' || name[2*ordinalDigits+1] != '.' {
		return ObjectInfo{}, fmt.Errorf("key %q is not an object's", key)
	}
	first, err1 := parseDigits(name[:ordinalDigits])
	last, err2 := parseDigits(name[ordinalDigits+1 : 2*ordinalDigits+1])
	revision, err3 := parseDigits(name[2*ordinalDigits+2:])
	if err1 != nil || err2 != nil || err3 != nil || first == 0 || last < first {
		return ObjectInfo{}, fmt.Errorf("key %q is not an object's", key)
	}
	return ObjectInfo{First: first, Last: last, Revision: uint16(revision)}, nil
}

// EpochKey returns the key of the claim on epoch.
func EpochKey(epoch uint32) string { return fmt.Sprintf("%s%0*d", EpochPrefix, epochDigits, epoch) }

// ParseEpochKey reads a claim's key as EpochKey makes it, and nothing else.
func ParseEpochKey(key string) (uint32, error) {
	name, ok := strings.CutPrefix(key, EpochPrefix)
	if !ok || len(name) != epochDigits {
		return 0, fmt.Errorf("key %q is not a claim's", key)
	}
	epoch, err := parseDigits(name)
	if err != nil || epoch == 0 || epoch > 1<<32-1 {
		return 0, fmt.Errorf("key %q is not a claim's", key)
	}
	return uint32(epoch), nil
}

// parseDigits reads decimal digits only: no sign, no underscore.
func parseDigits(text string) (uint64, error) {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return 0, strconv.ErrSyntax
		}
	}
	return strconv.ParseUint(text, 10, 64)
}
