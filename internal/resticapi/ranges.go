// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"fmt"
	"math"
	"net/http"
	"strings"
)

// byteRange is the part of a block that a GET asks for.
type byteRange struct {
	start, length int64
	partial       bool // asked for by a Range header, so the answer is 206
}

// contentRange is the header's value for a block of size bytes.
func (b byteRange) contentRange(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", b.start, b.start+b.length-1, size)
}

// pickRange reads the Range header of a GET on a block of size bytes. ok is
// false if nothing of the range lies inside the block (416).
//
// One range is honoured: a-, a-b, -n. Several ranges, a malformed one, another
// unit, a repeated header, or a range under a condition (If-Range: we give out
// no validator, so none can match) are ignored as RFC 9110 14.2 allows, and so
// is any range of an empty block, as net/http does: the answer is then 200
// with all of it.
func pickRange(header http.Header, size int64) (r byteRange, ok bool) {
	all := byteRange{length: size}
	values := header.Values("Range")
	if len(values) != 1 || size == 0 || header.Get("If-Range") != "" {
		return all, true
	}
	first, last, valid := parseRange(values[0])
	switch {
	case !valid:
		return all, true
	case first < 0: // the last n bytes
		n := min(last, size)
		return byteRange{start: size - n, length: n, partial: true}, n > 0
	case first >= size:
		return byteRange{}, false
	default:
		last = min(last, size-1)
		return byteRange{start: first, length: last - first + 1, partial: true}, true
	}
}

// parseRange reads "bytes=a-b". first is -1 for a suffix of last bytes, and
// last is MaxInt64 for an open end.
func parseRange(value string) (first, last int64, valid bool) {
	unit, set, found := strings.Cut(value, "=")
	if !found || !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return 0, 0, false
	}
	from, to, found := strings.Cut(strings.Trim(set, " \t"), "-")
	if !found || from == "" && to == "" {
		return 0, 0, false
	}
	first, last, valid = -1, math.MaxInt64, true
	if from != "" {
		first, valid = parseDigits(from)
	}
	if valid && to != "" {
		last, valid = parseDigits(to)
	}
	return first, last, valid && (first < 0 || first <= last)
}

// parseDigits reads a decimal number; one that is too large for an int64 is
// beyond the end of every block, and so is MaxInt64.
func parseDigits(s string) (n int64, valid bool) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		if d := int64(c - '0'); n > (math.MaxInt64-d)/10 {
			n = math.MaxInt64
		} else {
			n = n*10 + d
		}
	}
	return n, s != ""
}
