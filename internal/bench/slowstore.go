// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"time"
)

// SlowStore is a door to an S3 server that is far away: it lets every request
// wait before it hands it on, and counts it.
type SlowStore struct {
	Endpoint string // http://127.0.0.1:PORT

	server   *http.Server
	served   chan error
	requests atomic.Int64
}

// NewSlowStore opens a door to the server at endpoint. The caller closes it.
func NewSlowStore(endpoint string, delay time.Duration) (*SlowStore, error) {
	target, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("slow store: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("slow store: %w", err)
	}
	proxy := &httputil.ReverseProxy{
		// The host stays the one that the client has signed.
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		Transport: &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true},
	}
	s := &SlowStore{Endpoint: "http://" + listener.Addr().String(), served: make(chan error, 1)}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
			proxy.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
	s.server = &http.Server{Handler: handler, ReadHeaderTimeout: startTimeout}
	go func() { s.served <- s.server.Serve(listener) }()
	return s, nil
}

// Requests is how many requests have come so far.
func (s *SlowStore) Requests() int64 { return s.requests.Load() }

// Close ends all connections.
func (s *SlowStore) Close() error {
	err := s.server.Close()
	if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
