// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/strandline-project/strandline/eventlog"
	"github.com/strandline-project/strandline/projector"
)

// Version is the version of manifests that this build writes, and the only one
// that it reads.
const Version = 1

// Limits of a manifest that is read.
const (
	maxManifest = 64 << 20 // bytes
	maxViews    = 16
	maxFiles    = 1 << 17 // of all views
	maxFileSize = 1 << 40 // bytes
	maxName     = 128     // bytes of a view's or file's name
)

// Manifest says what a checkpoint consists of. It stands for a whole one: it
// was put last.
type Manifest struct {
	Version int          `json:"version"`
	LogID   eventlog.ID  `json:"log_id"`
	Epoch   uint32       `json:"epoch"`  // of the server that took it
	Writer  eventlog.ID  `json:"writer"` // of that epoch's claim
	Seq     eventlog.Seq `json:"seq"`    // the last event that the views include
	Time    time.Time    `json:"time"`   // when it was taken, by the server's clock
	// Ordinal is the last one known to be archived when it was taken, and its
	// object has Seq or comes after; nil: none was known.
	Ordinal *uint64 `json:"archived_ordinal,omitempty"`
	// Horizon is how far back the views' history is complete; 0: to the first
	// event.
	Horizon eventlog.Seq `json:"horizon"`
	Views   []View       `json:"views"`
}

// View is one view of a checkpoint.
type View struct {
	Name     string           `json:"name"`
	Version  uint32           `json:"version"` // of the projector
	Position eventlog.Seq     `json:"position"`
	Digest   projector.Digest `json:"digest"` // as of Position
	Files    []File           `json:"files"`  // of its store, in the order of their names
}

// File is one file of a view's store. One without bytes is not in the archive.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 Hash   `json:"sha256"`
}

// sealed is the form of a manifest: it says whether it is unchanged.
type sealed struct {
	Manifest json.RawMessage `json:"manifest"`
	SHA256   Hash            `json:"sha256"` // of Manifest as it stands there
}

// errManifest says that bytes are no manifest; errLater, that a later version
// of this program wrote one.
var (
	errManifest = errors.New("damaged manifest of a checkpoint")
	errLater    = errors.New("a manifest of a version that this build does not read")
)

// encode returns the manifest's only form.
func (m *Manifest) encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write the manifest of checkpoint %s: %w", m.Seq, err)
	}
	text, err := json.Marshal(sealed{body, sha256.Sum256(body)})
	if err != nil {
		return nil, fmt.Errorf("write the manifest of checkpoint %s: %w", m.Seq, err)
	}
	if text = append(text, '\n'); len(text) > maxManifest {
		return nil, fmt.Errorf("write the manifest of checkpoint %s: %d bytes, more than %d", m.Seq, len(text), maxManifest)
	}
	return text, nil
}

// decode reads what encode wrote, and nothing else: any other byte is
// errManifest, another version errLater.
func decode(text []byte) (*Manifest, error) {
	if len(text) > maxManifest {
		return nil, fmt.Errorf("%w: more than %d bytes", errManifest, maxManifest)
	}
	var s sealed
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	if sha256.Sum256(s.Manifest) != s.SHA256 {
		return nil, fmt.Errorf("%w: its checksum is wrong", errManifest)
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(s.Manifest, &version); err != nil {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	if version.Version > Version {
		return nil, fmt.Errorf("%w: version %d, this build reads %d", errLater, version.Version, Version)
	}
	m := new(Manifest)
	if err := json.Unmarshal(s.Manifest, m); err != nil {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	again, err := m.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, text) { // a name in other letters, say
		return nil, fmt.Errorf("%w: it has not the form that is written", errManifest)
	}
	return m, nil
}

// check refuses what no checkpoint can be.
func (m *Manifest) check() error {
	files := 0
	for i := range m.Views {
		if err := m.checkView(i); err != nil {
			return err
		}
		files += len(m.Views[i].Files)
	}
	switch none := (eventlog.ID{}); {
	case m.Version != Version:
		return fmt.Errorf("%w: version %d", errManifest, m.Version)
	case m.LogID == none, m.Writer == none, m.Epoch == 0, !m.Seq.Valid(), m.Time.IsZero(), m.Ordinal != nil && *m.Ordinal == 0:
		return fmt.Errorf("%w: something in it is not known", errManifest)
	case m.Seq.Epoch() > m.Epoch:
		return fmt.Errorf("%w: event %s is later than its epoch, %d", errManifest, m.Seq, m.Epoch)
	case m.Horizon > m.Seq:
		return fmt.Errorf("%w: event %s lies below the horizon, %s", errManifest, m.Seq, m.Horizon)
	case len(m.Views) == 0, len(m.Views) > maxViews, files > maxFiles:
		return fmt.Errorf("%w: %d views with %d files", errManifest, len(m.Views), files)
	}
	return nil
}

func (m *Manifest) checkView(i int) error {
	v := &m.Views[i]
	if !plainName(v.Name) || i > 0 && m.Views[i-1].Name >= v.Name {
		return fmt.Errorf("%w: view %q out of order", errManifest, v.Name)
	}
	if v.Position != m.Seq {
		return fmt.Errorf("%w: the %s view stands at %s, the checkpoint at %s", errManifest, v.Name, v.Position, m.Seq)
	}
	if len(v.Files) == 0 {
		return fmt.Errorf("%w: the %s view has no file", errManifest, v.Name)
	}
	for j, f := range v.Files {
		if !plainName(f.Name) || f.Name == lockName || j > 0 && v.Files[j-1].Name >= f.Name {
			return fmt.Errorf("%w: file %q of the %s view", errManifest, f.Name, v.Name)
		}
		if f.Size < 0 || f.Size > maxFileSize || f.Size == 0 && f.SHA256 != sha256.Sum256(nil) {
			return fmt.Errorf("%w: file %q of the %s view has %d bytes", errManifest, f.Name, v.Name, f.Size)
		}
	}
	return nil
}

// lockName is the file that keeps two processes out of a store. It is of a
// process, not of the store.
const lockName = "LOCK"

// plainName reports whether name can be that of a file in one directory, and
// of none elsewhere: letters, digits, dots, dashes and underscores, not a dot
// first.
func plainName(name string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	return name != "" && len(name) <= maxName && name[0] != '.' && strings.Trim(name, allowed) == ""
}

// bytes is how much there is to transfer.
func (m *Manifest) bytes() (total int64) {
	for i := range m.Views {
		for _, f := range m.Views[i].Files {
			total += f.Size
		}
	}
	return total
}

// files is how many files have bytes.
func (m *Manifest) files() (n int) {
	for i := range m.Views {
		for _, f := range m.Views[i].Files {
			if f.Size > 0 {
				n++
			}
		}
	}
	return n
}

// contents are the files that must be in the archive, with their sizes.
func (m *Manifest) contents() map[Hash]int64 {
	all := map[Hash]int64{}
	for i := range m.Views {
		for _, f := range m.Views[i].Files {
			if f.Size > 0 {
				all[f.SHA256] = f.Size
			}
		}
	}
	return all
}
