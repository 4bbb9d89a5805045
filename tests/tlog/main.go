// Command tlog judges logs of Holm with golang.org/x/mod/sumdb, which Go's own checksum database is verified with: signed notes,
// tiles, and the hash of each entry. KEY, then a directory an argument; a line of output for each. `tests/run audit` runs it.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// tiles are those of a directory. sumdb puts the height into the path, tlog-tiles does not.
type tiles string

func (dir tiles) Height() int                          { return 8 }
func (dir tiles) SaveTiles(_ []tlog.Tile, _ [][]byte) {}
func (dir tiles) ReadTiles(all []tlog.Tile) (data [][]byte, err error) {
	for _, tile := range all {
		bytes, err := os.ReadFile(filepath.Join(string(dir), "tile", strings.TrimPrefix(tile.Path(), "tile/8/")))
		if err != nil {
			return nil, err
		}
		data = append(data, bytes)
	}
	return data, nil
}

func verify(dir string, verifier note.Verifier) (tree tlog.Tree, err error) {
	message, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return tree, err
	}
	signed, err := note.Open(message, note.VerifierList(verifier))
	if err != nil {
		return tree, err
	}
	lines := strings.Split(signed.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tree, fmt.Errorf("it is no checkpoint")
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, err
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || copy(tree.Hash[:], root) != tlog.HashSize {
		return tree, fmt.Errorf("its root is no hash")
	}
	// It gives no hash that the root does not cover.
	hashes := tlog.TileHashReader(tree, tiles(dir))
	for start := int64(0); start < tree.N; start += 256 {
		width := tree.N - start
		if width > 256 {
			width = 256
		}
		path := strings.TrimPrefix(tlog.Tile{H: 8, L: -1, N: start / 256, W: int(width)}.Path(), "tile/8/data/")
		bundle, err := os.ReadFile(filepath.Join(dir, "tile/entries", path))
		if err != nil {
			return tree, err
		}
		var indexes []int64
		for index := start; index < start+width; index++ {
			indexes = append(indexes, tlog.StoredHashIndex(0, index))
		}
		leaves, err := hashes.ReadHashes(indexes)
		if err != nil {
			return tree, err
		}
		for _, leaf := range leaves {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				return tree, fmt.Errorf("a bundle is cut short")
			}
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			if tlog.RecordHash(bundle[2:end]) != leaf {
				return tree, fmt.Errorf("an entry is not what was signed")
			}
			bundle = bundle[end:]
		}
		if len(bundle) != 0 {
			return tree, fmt.Errorf("a bundle is longer than its entries")
		}
	}
	return tree, nil
}

func main() {
	verifier, err := note.NewVerifier(os.Args[1])
	if err != nil {
		panic(err)
	}
	for _, dir := range os.Args[2:] {
		if tree, err := verify(dir, verifier); err != nil {
			fmt.Printf("refused: %q\n", err)
		} else {
			fmt.Printf("%d %x\n", tree.N, tree.Hash[:])
		}
	}
}
