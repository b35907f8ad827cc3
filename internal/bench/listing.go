// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Listing is how a list of a machine's data blocks came.
type Listing struct {
	FirstByte time.Duration // from the request to the first byte of the answer's body
	Whole     time.Duration // to its last byte
	Bytes     int64         // as they came
	Names     int           // 0 in a list that came gzipped: it is not unpacked
}

// NamesPerSecond is the rate of names behind the first byte.
func (l *Listing) NamesPerSecond() float64 { return perSecond(float64(l.Names), l.Whole-l.FirstByte) }

// List reads the list of all data blocks in version 2 of the protocol, on a
// connection of its own: plainly, or gzipped, as restic asks for it.
func (t Target) List(ctx context.Context, gzipped bool) (Listing, error) {
	c := &restClient{target: t}
	if err := c.dial(ctx); err != nil {
		return Listing{}, fmt.Errorf("list the data blocks: %w", err)
	}
	l := Listing{}
	began := time.Now()
	err := c.do(ctx, request{method: "GET", path: "data/", gzip: gzipped}, func(answer *http.Response) error {
		if came := answer.Header.Get("Content-Encoding") == "gzip"; came != gzipped {
			return fmt.Errorf("its encoding is %q", answer.Header.Get("Content-Encoding"))
		}
		return l.read(answer.Body, began, gzipped)
	})
	return l, errors.Join(err, c.Close())
}

// read counts names by what each row of version 2 begins with, which is much
// quicker than parsing them.
func (l *Listing) read(body io.Reader, began time.Time, gzipped bool) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := body.Read(buf)
		if l.Whole = time.Since(began); n > 0 && l.Bytes == 0 {
			l.FirstByte = l.Whole
		}
		l.Bytes += int64(n)
		if !gzipped {
			l.Names += bytes.Count(buf[:n], []byte("{"))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
