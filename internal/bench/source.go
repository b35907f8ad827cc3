// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// Source is what is backed up: a tree of small files, as of a program's
// sources, and a few large files that do not compress. The same Source makes
// the same bytes.
type Source struct {
	SmallFiles int    `json:"small_files"`
	SmallBytes int64  `json:"small_bytes"` // of all small files
	LargeBytes int64  `json:"large_bytes"` // of all large files
	Seed       uint64 `json:"seed"`
}

const (
	largeFiles  = 4
	perFolder   = 12  // small files
	changeEvery = 3   // one of so many small files has two versions
	sizeSpread  = 1.5 // of the logarithms of the small files' sizes: their mean is three times their median
	wordCount   = 4096
)

// source is a Source that was made.
type source struct {
	Source
	smallDir, largeDir string
	small, large       treeSum  // as they were made
	sizes              []int64  // of the small files
	words              []string // that they are written with
}

// make writes the files into dir, which it makes.
func (s Source) make(dir string) (*source, error) {
	if s.SmallFiles < 1 || s.SmallBytes < 1 || s.LargeBytes < 1 {
		return nil, errors.New("make the files to back up: there must be some small and some large bytes")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("make the files to back up: %w", err)
	}
	made := &source{Source: s, smallDir: filepath.Join(dir, "small"), largeDir: filepath.Join(dir, "large")}
	made.sizes, made.words = s.smallSizes(), s.vocabulary()
	for i := range made.sizes {
		if err := made.writeSmall(i, 0); err != nil {
			return nil, err
		}
	}
	for i := range largeFiles {
		if err := made.writeLarge(i); err != nil {
			return nil, err
		}
	}
	if made.small, err = sumTree(made.smallDir); err != nil {
		return nil, err
	}
	made.large, err = sumTree(made.largeDir)
	return made, err
}

// smallSizes splits SmallBytes: most files are small, some are not.
func (s Source) smallSizes() []int64 {
	rng := rand.New(rand.NewPCG(s.Seed, math.MaxUint64))
	upTo := make([]float64, s.SmallFiles+1) // weight of the files before
	for i := range s.SmallFiles {
		upTo[i+1] = upTo[i] + math.Exp(sizeSpread*rng.NormFloat64())
	}
	sizes := make([]int64, s.SmallFiles)
	total, last := upTo[s.SmallFiles], int64(0)
	for i := range sizes {
		end := int64(upTo[i+1] / total * float64(s.SmallBytes))
		if i == len(sizes)-1 {
			end = s.SmallBytes
		}
		sizes[i], last = end-last, end
	}
	return sizes
}

// vocabulary makes words of two to eleven letters.
func (s Source) vocabulary() []string {
	rng := rand.New(rand.NewPCG(s.Seed, math.MaxUint64-1))
	words := make([]string, wordCount)
	for i := range words {
		letters := make([]byte, 2+rng.IntN(10))
		for j := range letters {
			letters[j] = "eeeaaoiittnnssrrlldcumpfghbyvkwxz"[rng.IntN(33)]
		}
		words[i] = string(letters)
	}
	return words
}

// change makes every third small file that of a version: 0 is the first.
func (s *source) change(version uint64) error {
	for i := 0; i < len(s.sizes); i += changeEvery {
		if err := s.writeSmall(i, version); err != nil {
			return err
		}
	}
	return nil
}

func (s *source) writeSmall(i int, version uint64) error {
	folder := i / perFolder
	name := filepath.Join(s.smallDir, fmt.Sprintf("part%02x", folder>>8), fmt.Sprintf("unit%02x", folder&0xff), fmt.Sprintf("file%06d.txt", i))
	rng := rand.New(rand.NewPCG(s.Seed, uint64(i)|version<<32))
	text := make([]byte, 0, s.sizes[i]+wordCount)
	for int64(len(text)) < s.sizes[i] {
		text = s.appendLine(text, rng)
	}
	return writeFile(name, func(f io.Writer) error {
		_, err := f.Write(text[:s.sizes[i]])
		return err
	})
}

// appendLine adds an indented line of words, the first ones of the vocabulary
// more often than the last.
func (s *source) appendLine(text []byte, rng *rand.Rand) []byte {
	text = append(text, "\t\t\t\t"[:rng.IntN(5)]...)
	for range 1 + rng.IntN(10) {
		text = append(text, s.words[rng.IntN(1+rng.IntN(len(s.words)))]...)
		text = append(text, " ().=,"[rng.IntN(6)])
	}
	return append(text, '\n')
}

func (s *source) writeLarge(i int) error {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], s.Seed)
	binary.LittleEndian.PutUint64(seed[8:], uint64(i))
	size := s.LargeBytes*int64(i+1)/largeFiles - s.LargeBytes*int64(i)/largeFiles
	return writeFile(filepath.Join(s.largeDir, fmt.Sprintf("disk%d.img", i)), func(f io.Writer) error {
		_, err := io.CopyN(f, rand.NewChaCha8(seed), size)
		return err
	})
}

// writeFile makes a file, and its directory where there is none.
func writeFile(name string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("make the files to back up: %w", err)
	}
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("make the files to back up: %w", err)
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return fmt.Errorf("make the files to back up: %s: %w", name, err)
	}
	return nil
}

// treeSum is what a tree of files holds.
type treeSum struct {
	files int
	bytes int64
	hash  [sha256.Size]byte // of each file's name, size and content
}

func (s treeSum) String() string {
	return fmt.Sprintf("%d files, %d bytes, hash %x", s.files, s.bytes, s.hash[:8])
}

// sumTree reads every file below dir.
func sumTree(dir string) (sum treeSum, err error) {
	whole := sha256.New()
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content := sha256.New()
		size, err := readInto(content, path)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir)
		sum.files++
		sum.bytes += size
		_, err = fmt.Fprintf(whole, "%q %d %x\n", name, size, content.Sum(nil))
		return err
	})
	if err != nil {
		return treeSum{}, fmt.Errorf("read the files below %s: %w", dir, err)
	}
	whole.Sum(sum.hash[:0])
	return sum, nil
}

func readInto(w io.Writer, path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	size, err := io.Copy(w, f)
	return size, errors.Join(err, f.Close())
}
