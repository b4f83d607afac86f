// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package pe

import "fmt"

// Section is a part of a program.
type Section struct {
	Name string
	// Data is the content without the padding behind it.
	Data []byte
	// Zeros is by how many bytes the section is longer in memory.
	Zeros int
}

// Sections returns those of a program in the order of their headers. A name that
// comes twice is an error: readers would not agree which of them counts.
func Sections(data []byte) ([]Section, error) {
	i, err := parse(data)
	if err != nil {
		return nil, err
	}
	all, err := i.sections()
	if err != nil {
		return nil, err
	}
	var list []Section
	seen := map[string]bool{}
	for _, s := range all {
		if seen[s.name] {
			return nil, fmt.Errorf("section %q is there twice: %w", s.name, ErrImage)
		}
		seen[s.name] = true
		list = append(list, Section{Name: s.name, Data: data[s.at : s.at+min(s.size, s.memory)], Zeros: max(0, s.memory-s.size)})
	}
	return list, nil
}
