// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Provider is a cloud with a metadata service.
type Provider string

// The providers. None stands for a machine without such a service: libvirt,
// and IBM's clouds, which attach user-data as a volume.
const (
	None    Provider = ""
	Azure   Provider = "azure"
	AWS     Provider = "aws"
	GCP     Provider = "gcp"
	Alibaba Provider = "alibaba"
)

// maxDMI bounds a text of the firmware, in bytes.
const maxDMI = 256

// Detect reads from the firmware's tables below sys, where sysfs is mounted,
// whose machine this is. The tables are the host's; what a wrong answer gets
// it is a guest without user-data.
func Detect(sys string) (Provider, error) {
	b, err := os.ReadFile(filepath.Join(sys, "class/dmi/id/sys_vendor"))
	if errors.Is(err, fs.ErrNotExist) {
		return None, nil // no such tables, as on s390x
	}
	if err != nil {
		return None, fmt.Errorf("read the machine's vendor: %w", err)
	}
	switch vendor := strings.TrimSpace(string(b[:min(len(b), maxDMI)])); vendor {
	case "Microsoft Corporation":
		return Azure, nil
	case "Amazon EC2":
		return AWS, nil
	case "Google":
		return GCP, nil
	case "Alibaba Cloud":
		return Alibaba, nil
	}
	return None, nil
}
