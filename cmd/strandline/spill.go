// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
)

// spill keeps in a file what may be too much for memory: values, one after the
// other, of which all are added before any is read. It has one user at a time.
type spill[T any] struct {
	file *os.File
	buf  *bufio.Writer
	enc  *json.Encoder
	len  uint64
}

// newSpill makes the file at path.
func newSpill[T any](path string) (*spill[T], error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a file for what is found: %w", err)
	}
	buf := bufio.NewWriter(file)
	return &spill[T]{file: file, buf: buf, enc: json.NewEncoder(buf)}, nil
}

func (s *spill[T]) add(value *T) error {
	if err := s.enc.Encode(value); err != nil {
		return fmt.Errorf("keep what is found: %w", err)
	}
	s.len++
	return nil
}

// all yields what was added, in the same order, up to an error.
func (s *spill[T]) all() iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		err := s.buf.Flush()
		if err == nil {
			_, err = s.file.Seek(0, io.SeekStart)
		}
		if err != nil {
			yield(nil, fmt.Errorf("keep what is found: %w", err))
			return
		}
		dec := json.NewDecoder(bufio.NewReader(s.file))
		for range s.len {
			value := new(T)
			if err := dec.Decode(value); err != nil {
				yield(nil, fmt.Errorf("read what was found: %w", err))
				return
			}
			if !yield(value, nil) {
				return
			}
		}
	}
}

// close lets the file go; its folder is removed by whoever made it.
func (s *spill[T]) close() error { return s.file.Close() }
