package node

import (
	"fmt"
	"strconv"
	"strings"
)

// parseList reads the kernel's form of a set of numbers: "0-3,8". The result is in the text's order.
func parseList(text string) ([]int, error) {
	var list []int
	if text == "" {
		return nil, nil
	}
	for _, part := range strings.Split(text, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		first, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("parse list %q: %w", text, err)
		}
		last, err := strconv.ParseUint(high, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("parse list %q: %w", text, err)
		}
		if last < first || len(list)+int(last-first) >= maxCPUs {
			return nil, fmt.Errorf("parse list %q: bad range %q", text, part)
		}
		for n := first; n <= last; n++ {
			list = append(list, int(n))
		}
	}
	return list, nil
}

// formatList is the reverse of parseList for an ascending list.
func formatList(list []int) string {
	var out strings.Builder
	for i := 0; i < len(list); {
		j := i
		for j+1 < len(list) && list[j+1] == list[j]+1 {
			j++
		}
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(strconv.Itoa(list[i]))
		if j > i {
			out.WriteString("-" + strconv.Itoa(list[j]))
		}
		i = j + 1
	}
	return out.String()
}
