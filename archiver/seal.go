// SPDX-License-Identifier: Apache-2.0

package archiver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/strandline-project/strandline/eventlog"
)

// strandline.json and the claims are JSON objects whose last field is a
// checksum over what stands before it:
//
//	{
//	  "log_id": "...",
//	  ...
//	  "crc32c": "0123abcd"
//	}
//
// It is the CRC32C, as eight hexadecimal digits, of all bytes before the comma
// after the field before. Builds that know no such field pass over it. What
// they wrote has none: that is believed when two readings are equal.
const (
	sealName   = "crc32c"
	sealBefore = ",\n  \"" + sealName + "\": \""
	sealAfter  = "\"\n}\n"
	sealDigits = 8
	sealSize   = len(sealBefore) + sealDigits + len(sealAfter)
)

// seal returns value as JSON with its checksum.
func seal(value any) ([]byte, error) {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return nil, err
	}
	text = bytes.TrimSuffix(text, []byte("\n}"))
	return fmt.Appendf(text, "%s%08x%s", sealBefore, eventlog.Checksum(text), sealAfter), nil
}

// checkSeal reports whether text, which is to be a JSON object, has a checksum.
// eventlog.ErrDamaged: it is no object, or the checksum is of another one.
func checkSeal(text []byte) (sealed bool, err error) {
	var stated struct {
		Sum *string `json:"crc32c"`
	}
	if err := json.Unmarshal(text, &stated); err != nil {
		return false, fmt.Errorf("%w: %w", eventlog.ErrDamaged, err)
	}
	if stated.Sum == nil {
		return false, nil
	}
	body := text[:max(0, len(text)-sealSize)]
	want := fmt.Sprintf("%s%08x%s", sealBefore, eventlog.Checksum(body), sealAfter)
	if string(text[len(body):]) != want {
		return true, fmt.Errorf("%w: it states the checksum %q, which is not that of its bytes", eventlog.ErrDamaged, *stated.Sum)
	}
	return true, nil
}

// errDiffers says that two readings of an object which never changes differ.
var errDiffers = fmt.Errorf("%w: two readings of it differ", ErrOlderState)

// readSure reads the JSON object key, which is known to be there, and decodes
// it. decode sees bytes that are sure: their checksum is right, or, where they
// have none, two readings are equal. What is damaged, differs or is absent is
// asked for again.
func readSure(ctx context.Context, bucket Bucket, key string, limit int64, decode func(text []byte) error) error {
	return AskAgain(ctx, func(err error) bool { return contradicts(err) || errors.Is(err, errDiffers) }, func() error {
		text, err := readAll(ctx, bucket, key, 0, limit)
		if err != nil {
			return err
		}
		sealed, err := checkSeal(text)
		if err != nil {
			return err
		}
		if !sealed {
			again, err := readAll(ctx, bucket, key, 0, limit)
			if err != nil {
				return err
			}
			if !bytes.Equal(text, again) {
				return errDiffers
			}
		}
		return decode(text)
	})
}
