// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package podvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"cocoon/internal/wire/agentpb"
)

// BindTrees are the trees below which a missing source of a bind mount is
// made: what the host copies to, and where volumes of a pod usually lie. None
// of them steers the guest.
func BindTrees() []string {
	return []string{
		"/run/kata-containers/shared/containers",
		"/var/lib/kubelet",
		"/var/log",
		"/mnt",
		"/srv",
		"/opt",
		"/home",
		"/tmp",
	}
}

// MakeBindSources makes the missing sources of a container's bind mounts as
// empty folders, below trees only. The host chooses the paths, so it is to be
// called after the policy allowed the request. Links that lead out of a tree
// are an error. A source elsewhere is left alone; mounting it will fail and
// say so.
func MakeBindSources(req *agentpb.CreateContainerRequest, trees []string) error {
	for _, m := range req.GetOCI().GetMounts() {
		if m.GetType() != "bind" || isFileMount(m.GetDestination()) {
			continue
		}
		src := path.Clean(m.GetSource())
		for _, tree := range trees {
			rel, ok := strings.CutPrefix(src, tree+"/")
			if !ok {
				continue
			}
			if err := makeBelow(tree, rel); err != nil {
				return fmt.Errorf("make source %.200q of mount: %w", src, err)
			}
			break
		}
	}
	return nil
}

// isFileMount names the destinations that are files: an empty folder in their
// place would hide that the host did not copy the file.
func isFileMount(destination string) bool {
	switch path.Clean(destination) {
	case "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log":
		return true
	}
	return false
}

// makeBelow makes rel below tree if it is absent.
func makeBelow(tree, rel string) error {
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close() // nothing is written through the folder's descriptor itself
	rel = filepath.FromSlash(rel)
	_, err = root.Stat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return root.MkdirAll(rel, 0o755)
	}
	return err
}
