// SPDX-License-Identifier: Apache-2.0

package plainclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
	"unicode/utf8"
)

const (
	pieceSize = 1 << 20 // files are cut at multiples of this many bytes
	maxBlock  = 4 << 20 // small pieces share blocks of at most this many bytes
)

// tree is the content of an index block: the files of one backup, a directory
// before what is in it.
type tree struct {
	Version int     `json:"version"` // 1
	Entries []entry `json:"entries"`
}

const treeVersion = 1

// The kinds of entry.
const (
	typeFile    = "file"
	typeDir     = "dir"
	typeSymlink = "symlink"
)

// entry is one file, directory or symbolic link.
type entry struct {
	Path   text    `json:"path"` // slash-separated, relative to the directory; "." is the directory itself
	Type   string  `json:"type"`
	Mode   uint32  `json:"mode"`  // permissions with setuid 04000, setgid 02000, sticky 01000
	MTime  int64   `json:"mtime"` // Unix time in ns
	Size   int64   `json:"size,omitempty"`
	Target text    `json:"target,omitempty"` // of a symbolic link
	Pieces []piece `json:"pieces,omitempty"` // in order, without gap; none for an empty file
}

// piece says where a part of a file is.
type piece struct {
	Hash   string `json:"hash"`   // SHA-256 of the piece
	Block  string `json:"block"`  // name of the data block
	Offset int64  `json:"offset"` // in the block, bytes
	Length int64  `json:"length"` // bytes, 1 to pieceSize
}

// text is a string that need not be valid UTF-8, as file names need not:
// JSON {"bytes": base64} where it is not.
type text string

type textBytes struct {
	Bytes []byte `json:"bytes"`
}

// MarshalJSON implements json.Marshaler.
func (t text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal(textBytes{Bytes: []byte(t)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '{' {
		var raw textBytes
		err := json.Unmarshal(data, &raw)
		*t = text(raw.Bytes)
		return err
	}
	return json.Unmarshal(data, (*string)(t))
}

// decodeTree reads an index block and refuses one that could write outside of
// a restore's directory or ask for absurd amounts of memory.
func decodeTree(body []byte) (*tree, error) {
	var t tree
	if err := json.Unmarshal(body, &t); err != nil {
		return nil, fmt.Errorf("decode the list of files: %w", err)
	}
	if t.Version != treeVersion {
		return nil, fmt.Errorf("the list of files has version %d, this client knows %d", t.Version, treeVersion)
	}
	seen := make(map[text]bool, len(t.Entries))
	for i := range t.Entries {
		e := &t.Entries[i]
		if seen[e.Path] {
			return nil, fmt.Errorf("list of files: %q stands there twice", e.Path)
		}
		seen[e.Path] = true
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("list of files: %q: %w", e.Path, err)
		}
	}
	return &t, nil
}

func (e *entry) check() error {
	if !filepath.IsLocal(filepath.FromSlash(string(e.Path))) {
		return errors.New("the path leads out of the directory")
	}
	switch e.Type {
	case typeDir, typeSymlink:
		if len(e.Pieces) > 0 || e.Size != 0 {
			return fmt.Errorf("a %s with content", e.Type)
		}
		return nil
	case typeFile:
		return e.checkPieces()
	}
	return fmt.Errorf("unknown type %q", e.Type)
}

func (e *entry) checkPieces() error {
	var sum int64
	for _, p := range e.Pieces {
		if p.Length < 1 || p.Length > pieceSize || p.Offset < 0 || p.Offset > maxBlock-p.Length {
			return fmt.Errorf("a piece of %d bytes at %d", p.Length, p.Offset)
		}
		if !validName(p.Block) || !validName(p.Hash) {
			return fmt.Errorf("a piece in %q with hash %q", p.Block, p.Hash)
		}
		sum += p.Length
	}
	if sum != e.Size {
		return fmt.Errorf("%d bytes in pieces, but a size of %d", sum, e.Size)
	}
	return nil
}

// unixMode returns mode's permissions as chmod(2) takes them.
func unixMode(mode fs.FileMode) uint32 {
	bits := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if mode&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if mode&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}

// fileMode is the inverse of unixMode.
func fileMode(bits uint32) fs.FileMode {
	mode := fs.FileMode(bits & 0o777)
	if bits&0o4000 != 0 {
		mode |= fs.ModeSetuid
	}
	if bits&0o2000 != 0 {
		mode |= fs.ModeSetgid
	}
	if bits&0o1000 != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

// Snapshot is one backup that the server has acknowledged.
type Snapshot struct {
	ID    string    `json:"-"` // the name of its block, 64 hex digits
	Time  time.Time `json:"time"`
	Host  string    `json:"host"`
	Dir   string    `json:"dir"`
	Index string    `json:"index"` // the name of its list of files
	Files int       `json:"files"`
	Bytes int64     `json:"bytes"` // in files
}

func decodeSnapshot(name string, body []byte) (Snapshot, error) {
	var s Snapshot
	if err := json.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("decode snapshot %s: %w", name, err)
	}
	if !validName(s.Index) {
		return s, fmt.Errorf("snapshot %s names the index %q, which is no block's name", name, s.Index)
	}
	s.ID = name
	return s, nil
}
