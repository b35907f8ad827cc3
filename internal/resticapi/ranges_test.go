// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"math"
	"net/http"
	"testing"
)

func TestRanges(t *testing.T) {
	full := func(size int64) byteRange { return byteRange{length: size} }
	part := func(start, length int64) byteRange { return byteRange{start, length, true} }
	for _, c := range []struct {
		name, header string
		size         int64
		want         byteRange
		ok           bool
	}{
		{"an open range", "bytes=3-", 10, part(3, 7), true},
		{"the whole file, as restic asks", "bytes=0-", 10, part(0, 10), true},
		{"a closed range", "bytes=2-5", 10, part(2, 4), true},
		{"one byte", "bytes=9-9", 10, part(9, 1), true},
		{"a range partly beyond the end is shortened", "bytes=8-20", 10, part(8, 2), true},
		{"a range that begins at the end", "bytes=10-", 10, byteRange{}, false},
		{"a range beyond the end", "bytes=50-60", 10, byteRange{}, false},
		{"a suffix", "bytes=-4", 10, part(6, 4), true},
		{"a suffix longer than the file", "bytes=-40", 10, part(0, 10), true},
		{"a suffix of nothing", "bytes=-0", 10, byteRange{}, false},
		{"any range of an empty file is ignored", "bytes=0-", 0, full(0), true},
		{"several ranges are ignored", "bytes=0-1,3-4", 10, full(10), true},
		{"a reversed range is ignored", "bytes=5-2", 10, full(10), true},
		{"no number at all is ignored", "bytes=-", 10, full(10), true},
		{"letters are ignored", "bytes=a-b", 10, full(10), true},
		{"a sign is ignored", "bytes=+1-2", 10, full(10), true},
		{"another unit is ignored", "items=0-1", 10, full(10), true},
		{"no unit is ignored", "0-1", 10, full(10), true},
		{"an empty header is ignored", "", 10, full(10), true},
		{"the unit in capitals", "BYTES=1-1", 10, part(1, 1), true},
		{"spaces around", " bytes= 1-1 ", 10, part(1, 1), true},
		{"a last byte too large for 64 bits", "bytes=1-99999999999999999999999", 10, part(1, 9), true},
		{"a first byte too large for 64 bits", "bytes=99999999999999999999999-", 10, byteRange{}, false},
		{"a suffix too large for 64 bits", "bytes=-99999999999999999999999", 10, part(0, 10), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := pickRange(http.Header{"Range": {c.header}}, c.size)
			if ok != c.ok || ok && got != c.want {
				t.Errorf("%q of %d: %+v %v, want %+v %v", c.header, c.size, got, ok, c.want, c.ok)
			}
		})
	}
}

func TestRangesUnderAConditionOrTwiceAreIgnored(t *testing.T) {
	for name, h := range map[string]http.Header{
		"none":     {},
		"If-Range": {"Range": {"bytes=1-2"}, "If-Range": {`"tag"`}},
		"twice":    {"Range": {"bytes=1-2", "bytes=3-4"}},
	} {
		if got, ok := pickRange(h, 10); got != (byteRange{length: 10}) || !ok {
			t.Errorf("%s: %+v %v", name, got, ok)
		}
	}
}

func FuzzPickRange(f *testing.F) {
	f.Add("bytes=0-", int64(10))
	f.Add("bytes=-5", int64(3))
	f.Add("bytes=5-2,-", int64(0))
	f.Add("bytes=9223372036854775807-9223372036854775808", int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		r, ok := pickRange(http.Header{"Range": {header}}, size)
		switch {
		case !ok:
			return
		case !r.partial && (r.start != 0 || r.length != size):
			t.Fatalf("%q of %d: %+v is neither all nor a part", header, size, r)
		case r.partial && (r.start < 0 || r.length < 1 || r.start > size-r.length):
			t.Fatalf("%q of %d: %+v lies outside", header, size, r)
		}
	})
}
