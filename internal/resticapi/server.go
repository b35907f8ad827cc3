// SPDX-License-Identifier: Apache-2.0

package resticapi

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// ServerConfig is what NewServer needs. Without CertFile the server speaks
// plain HTTP/1.1; with it TLS 1.2 or newer, and HTTP/2 for clients that ask.
type ServerConfig struct {
	Handler  http.Handler
	CertFile string // PEM, the chain; set together with KeyFile
	KeyFile  string // PEM
	Log      *slog.Logger
}

// NewServer returns a server with the limits that a door open to a network
// needs. There is no limit on the time of a whole request, since a body may be
// large; Handler sets deadlines by the bytes that arrive. Use Serve to run it.
func NewServer(c ServerConfig) (*http.Server, error) {
	log := c.Log
	if log == nil {
		log = slog.Default()
	}
	s := &http.Server{
		Handler:           c.Handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		// A peer that vanished is noticed while its streams wait.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	if c.CertFile == "" && c.KeyFile == "" {
		return s, nil
	}
	cert, err := openCertificate(c.CertFile, c.KeyFile, log)
	if err != nil {
		return nil, err
	}
	s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cert.get}
	return s, nil
}

// Serve runs s on ln, with TLS if s was made with a certificate, until s is
// shut down or closed; then it returns nil.
func Serve(s *http.Server, ln net.Listener) error {
	var err error
	if s.TLSConfig != nil {
		err = s.ServeTLS(ln, "", "")
	} else {
		err = s.Serve(ln)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve clients on %s: %w", ln.Addr(), err)
}

// certificate is a key pair that is read again when one of its files changed.
// While the two do not fit each other (one is replaced after the other), the
// pair read before is used.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu     sync.Mutex
	pair   *tls.Certificate // guarded by mu
	stamps [2]os.FileInfo   // guarded by mu: the files when they were last read, well or badly
}

func openCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	if certFile == "" || keyFile == "" {
		return nil, errors.New("TLS needs both files, that of the certificate and that of its key")
	}
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.loadLocked(); err != nil {
		return nil, err
	}
	return c, nil
}

// get is tls.Config's GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if fileChanged(c.certFile, c.stamps[0]) || fileChanged(c.keyFile, c.stamps[1]) {
		if err := c.loadLocked(); err != nil {
			c.log.Error("the TLS certificate changed but cannot be used: the one read before stays", "err", err)
		} else {
			c.log.Info("the TLS certificate was read again", "file", c.certFile)
		}
	}
	return c.pair, nil
}

func (c *certificate) loadLocked() error {
	for i, file := range []string{c.certFile, c.keyFile} {
		stamp, err := os.Stat(file)
		if err != nil {
			return fmt.Errorf("read the TLS certificate: %w", err)
		}
		c.stamps[i] = stamp
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("read the TLS certificate from %s and %s: %w", c.certFile, c.keyFile, err)
	}
	c.pair = &pair
	return nil
}

// fileChanged says whether file is another one than when it had stamp, or has
// another time or size. One that cannot be looked at has not changed yet: files
// are replaced in steps.
func fileChanged(file string, stamp os.FileInfo) bool {
	now, err := os.Stat(file)
	if err != nil {
		return false
	}
	return !os.SameFile(now, stamp) || !now.ModTime().Equal(stamp.ModTime()) || now.Size() != stamp.Size()
}
