// SPDX-License-Identifier: Apache-2.0

package s3

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
)

// maxConnections bounds the connections to the store: as many as the reads that
// archiver.Adaptive has under way at most. With the default of 16 idle ones a
// recovery dials all the time.
const maxConnections = 512

func newTransport(secure bool) (*http.Transport, error) {
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	transport.MaxIdleConns = 0
	transport.MaxIdleConnsPerHost = maxConnections
	transport.MaxConnsPerHost = maxConnections
	transport.ResponseHeaderTimeout = 30 * time.Second
	transport.ForceAttemptHTTP2 = false
	transport.WriteBufferSize, transport.ReadBufferSize = 64<<10, 64<<10
	if transport.TLSClientConfig != nil {
		transport.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(maxConnections)
	}
	return transport, nil
}

// clock notes how far the store's clock is from ours, as each answer's Date
// header says.
type clock struct {
	next http.RoundTripper
	skew atomic.Int64 // ns; positive when ours is ahead
}

// RoundTrip implements http.RoundTripper.
func (c *clock) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(request)
	if err != nil {
		return response, err //nolint:wrapcheck // a transport's errors are passed on as they are
	}
	if theirs, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		c.skew.Store(int64(time.Since(theirs)))
	}
	return response, nil
}
