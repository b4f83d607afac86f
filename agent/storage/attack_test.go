// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"os"
	"strings"
	"testing"

	"cocoon/internal/wire/agentpb"
)

func TestHostileStoragesAreRefused(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, &fakePuller{})
	secret := t.TempDir()
	if err := os.Symlink(secret, run+"/link"); err != nil {
		t.Fatal(err)
	}
	pull := func(point string, options ...string) *agentpb.Storage {
		return &agentpb.Storage{Driver: DriverImagePull, Source: "example.com/a", MountPoint: point, DriverOptions: options}
	}
	many := make([]*agentpb.Storage, maxStorages+1)
	for name, list := range map[string][]*agentpb.Storage{
		"nil":                     {nil},
		"too many":                many,
		"no driver":               {{MountPoint: run + "/x"}},
		"no mount point":          {tmpfs("")},
		"the root":                {tmpfs("/")},
		"the run directory":       {tmpfs(run)},
		"outside":                 {tmpfs("/etc/evil")},
		"a sibling":               {tmpfs(run + "x/y")},
		"dots":                    {tmpfs(run + "/../y")},
		"relative":                {tmpfs("y")},
		"NUL":                     {tmpfs(run + "/a\x00b")},
		"loop":                    {tmpfs(run+"/x", "loop")},
		"unknown tmpfs option":    {tmpfs(run+"/x", "lowerdir=/")},
		"bind as tmpfs":           {tmpfs(run+"/x", "bind")},
		"remount as tmpfs":        {tmpfs(run+"/x", "remount")},
		"bad mode":                {{Driver: "local", MountPoint: run + "/x", Options: []string{"mode=99"}}},
		"huge mode":               {{Driver: "local", MountPoint: run + "/x", Options: []string{"mode=177777"}}},
		"bad group":               {tmpfs(run+"/x", "fsgid=-1")},
		"wrong type":              {{Driver: "ephemeral", Fstype: "proc", MountPoint: run + "/x"}},
		"hugetlbfs":               {{Driver: "ephemeral", Fstype: "hugetlbfs", MountPoint: run + "/x"}},
		"bind of the guest":       {{Driver: "bind", Source: "/etc", MountPoint: run + "/x"}},
		"bind with data":          {{Driver: "bind", Source: run, MountPoint: run + "/x", Options: []string{"size=1"}}},
		"overlay of the guest":    {{Driver: "overlayfs", MountPoint: run + "/x", Options: []string{"lowerdir=/etc:/usr"}}},
		"overlay with an escape":  {{Driver: "overlayfs", MountPoint: run + "/x", Options: []string{`lowerdir=` + run + `/a\:b`}}},
		"overlay through a link":  {{Driver: "overlayfs", MountPoint: run + "/x", Options: []string{"lowerdir=" + run + "/link"}}},
		"overlay with odd option": {{Driver: "overlayfs", MountPoint: run + "/x", Options: []string{"context=x"}}},
		"overlay of no container": {{Driver: "overlayfs", MountPoint: run + "/x", Options: []string{overlayRW}}},
		"overlay directory":       {{Driver: "overlayfs", MountPoint: run + "/x", DriverOptions: []string{overlayCreate + "/etc/made"}}},
		"image of the sandbox":    {pull(run+"/c/rootfs", `image_guest_pull={}`)},
		"image elsewhere":         {pull(run+"/other", `image_guest_pull={}`)},
		"image without metadata":  {pull(run + "/c/rootfs")},
		"image with bad metadata": {pull(run+"/c/rootfs", `image_guest_pull={"metadata":[]}`)},
	} {
		owner := ""
		if strings.HasPrefix(name, "image ") && name != "image of the sandbox" {
			owner = "c"
		}
		if err := m.Attach(t.Context(), owner, list); err == nil {
			t.Errorf("%s: was attached", name)
		}
		if len(m.entries)+len(m.owners) != 0 {
			t.Fatalf("%s: books are not empty", name)
		}
	}
	if list, err := os.ReadDir(secret); err != nil || len(list) != 0 {
		t.Errorf("something was made outside the run directory: %v (%v)", list, err)
	}
}

func TestALinkDoesNotLeadOutOfTheRunDirectory(t *testing.T) {
	t.Parallel()
	m, run := newManager(t, nil)
	outside := t.TempDir()
	write(t, outside+"/secret", "secret")
	if err := errors.Join(os.Symlink(outside, run+"/abs"), os.Symlink("../../../../../../../.."+outside, run+"/up")); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{"/abs", "/up"} {
		err := m.Attach(t.Context(), "c1", []*agentpb.Storage{{Driver: "bind", Source: run + link, MountPoint: run + "/dst"}})
		if err == nil {
			if _, err := os.Stat(run + "/dst/secret"); err == nil {
				t.Errorf("%s brought in a directory from outside", link)
			}
			detach(t, m, "c1")
		}
		attach(t, m, "c2", tmpfs(run+link+"/mnt"))
		if _, err := os.Lstat(outside + "/mnt"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a mount point was made outside (%v)", link, err)
		}
		detach(t, m, "c2")
	}
}
