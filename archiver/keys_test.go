// SPDX-License-Identifier: Apache-2.0

package archiver_test

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/strandline-project/strandline/archiver"
)

func TestKeysAreAsPublished(t *testing.T) {
	for got, want := range map[string]string{
		archiver.Shipped(1).Key():                                      "log/0000000000000001-0000000000000001.0000",
		archiver.ObjectInfo{First: 257, Last: 512, Revision: 12}.Key(): "log/0000000000000257-0000000000000512.0012",
		archiver.IndexInfo{Run: 2, Revision: 3}.Key():                  "index/0000000000000002.0003",
		archiver.IndexInfo{Run: 2}.String():                            "the index object of ordinals 257 to 512 (index/0000000000000002.0000)",
		archiver.EpochKey(7):                                           "epoch/0000000007",
		archiver.EpochKey(math.MaxUint32):                              "epoch/4294967295",
		archiver.Shipped(3).String():                                   "ordinal 3 (log/0000000000000003-0000000000000003.0000)",
		archiver.ObjectInfo{First: 1, Last: 2}.String():                "ordinals 1 to 2 (log/0000000000000001-0000000000000002.0000)",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestForeignKeysAreNoObjectsAndNoClaims(t *testing.T) {
	for _, key := range []string{
		"", "log/", "log/1", "log/0000000000000001", "log/0000000000000001-0000000000000001", "log/0000000000000001-0000000000000001.",
		"log/0000000000000001-0000000000000001.00000", "log/0000000000000001-0000000000000001.000", "log/0000000000000001_0000000000000001.0000",
		"log/0000000000000002-0000000000000001.0000", "log/0000000000000000-0000000000000001.0000", "log/+000000000000001-0000000000000001.0000",
		"log/000000000000000a-0000000000000001.0000", "log/0000000000000001-0000000000000001.0000.tmp", "x/0000000000000001-0000000000000001.0000",
		"log/0000000000000001-0000000000000001.00_0", "epoch/", "epoch/1", "epoch/0000000000", "epoch/4294967296", "epoch/00000000007", "epoch/-000000007",
		"index/", "index/0000000000000001", "index/0000000000000000.0000", "index/0000000000000001.00000", "index/000000000000001.0000",
		"index/000000000000000a.0000", "index/0000000000000001.-001", "index/9999999999999999.0000", "index/0000000000000001-0000",
	} {
		if index, err := archiver.ParseIndexKey(key); err == nil {
			t.Errorf("%q is taken for %v", key, index)
		}
		if object, err := archiver.ParseLogKey(key); err == nil {
			t.Errorf("%q is taken for %v", key, object)
		}
		if epoch, err := archiver.ParseEpochKey(key); err == nil {
			t.Errorf("%q is taken for epoch %d", key, epoch)
		}
	}
}

func TestKeysReadBackAndSortAsTheirNumbersDo(t *testing.T) {
	object := rapid.Custom(func(t *rapid.T) archiver.ObjectInfo {
		first := rapid.Uint64Range(1, 9_999_999_999_999_999).Draw(t, "first")
		return archiver.ObjectInfo{First: first, Last: rapid.Uint64Range(first, 9_999_999_999_999_999).Draw(t, "last"), Revision: rapid.Uint16Max(9999).Draw(t, "revision")}
	})
	rapid.Check(t, func(t *rapid.T) {
		x, y := object.Draw(t, "x"), object.Draw(t, "y")
		if got, err := archiver.ParseLogKey(x.Key()); err != nil || got != x {
			t.Errorf("%s reads back as %v, %v", x.Key(), got, err)
		}
		if x.First < y.First && x.Key() >= y.Key() {
			t.Errorf("%s does not sort before %s", x.Key(), y.Key())
		}
		epoch := rapid.Uint32Min(1).Draw(t, "epoch")
		if got, err := archiver.ParseEpochKey(archiver.EpochKey(epoch)); err != nil || got != epoch {
			t.Errorf("epoch %d reads back as %d, %v", epoch, got, err)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	for _, key := range []string{archiver.Shipped(1).Key(), archiver.EpochKey(1), archiver.IndexInfo{Run: 1}.Key(), "index/0000000000000000.0000", "index/9999999999999999.0000", "log/x", "strandline.json"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		object, logErr := archiver.ParseLogKey(key)
		epoch, epochErr := archiver.ParseEpochKey(key)
		index, indexErr := archiver.ParseIndexKey(key)
		if indexErr == nil {
			if first, last := index.Ordinals(); index.Key() != key || first == 0 || last < first {
				t.Errorf("%q is taken for %q, ordinals %d to %d", key, index.Key(), first, last)
			}
		}
		if logErr == nil && object.Key() != key {
			t.Errorf("%q is taken for %q", key, object.Key())
		}
		if epochErr == nil && archiver.EpochKey(epoch) != key {
			t.Errorf("%q is taken for epoch %d", key, epoch)
		}
		if slices.Contains([]error{logErr, epochErr}, nil) && logErr == epochErr {
			t.Errorf("%q is both", key)
		}
	})
}
