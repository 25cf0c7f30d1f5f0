package journal

import (
	"bytes"
	"encoding/json"
	"hash/crc32"
	"strconv"
)

const (
	// maxLine bounds one line, in bytes; longer lines are damage.
	maxLine = 8 << 20
	// sumLength is the length of the checksum at the start of a line.
	sumLength = 8
)

// readLines folds a journal of the form that was written before frames: lines of a CRC-32C in hexadecimal digits, a blank, and one
// record as JSON. A daemon that is upgraded finds one.
func readLines(text []byte) (State, int) {
	state, damaged := newState(), 0
	for line := range bytes.Lines(text) {
		if rec, ok := parseLine(line); ok {
			state.apply(rec)
		} else {
			damaged++
		}
	}
	return state, damaged
}

// parseLine returns the record of a whole line whose checksum is right.
func parseLine(line []byte) (Record, bool) {
	text, whole := bytes.CutSuffix(line, []byte{'\n'})
	if !whole || len(line) > maxLine || len(text) < sumLength+1 || text[sumLength] != ' ' {
		return Record{}, false
	}
	sum, err := strconv.ParseUint(string(text[:sumLength]), 16, 32)
	text = text[sumLength+1:]
	if err != nil || uint32(sum) != crc32.Checksum(text, castagnoli) {
		return Record{}, false
	}
	var rec Record
	err = json.Unmarshal(text, &rec)
	return rec, err == nil
}
