// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

// Package recipe says what the guest's root file system consists of.
//
// It is for the image builder; the guest never links it. The root holds one
// program, the binary as /init, and the files that PID 1, the guest role and
// Go's resolver read. Everything belongs to root, and modes stand here, so that
// neither the builder's user nor the umask can change the image. All content
// is covered by the launch measurement.
package recipe

import (
	"fmt"
	"strings"

	"cocoon/rootfs/boot"
)

// File types as they stand in the upper bits of a mode.
const (
	TypeDir     = 0o040000
	TypeFile    = 0o100000
	TypeSymlink = 0o120000
	TypeChar    = 0o020000
	typeMask    = 0o170000
)

// Entry is one file of the root.
type Entry struct {
	// Path is relative to the root, without a leading slash.
	Path string
	// Mode holds the type and the permission bits.
	Mode uint32
	// Data is the content of a file, or where a symbolic link leads.
	Data []byte
	// Major and Minor number a device node.
	Major, Minor uint32
}

// Type returns the type bits of the mode.
func (e Entry) Type() uint32 { return e.Mode & typeMask }

// Paths of the root that other parts of the guest know.
const (
	// PolicyPath is the agent's default policy. Without the file the agent
	// refuses everything until a policy arrives with verified initdata.
	PolicyPath = "/etc/kata-opa/default-policy.rego"
	// CABundlePath holds the roots that TLS clients of the guest trust. Without
	// the file they trust only what their configuration brings.
	CABundlePath = "/etc/ssl/certs/ca-certificates.crt"
	// PauseBundle is the bundle of the sandbox container. Its rootfs/pause is an
	// empty file over which the agent binds the binary.
	PauseBundle = "/pause_bundle"
	// ProfilePath names the profile, so that the guest knows what it may accept.
	ProfilePath = "/etc/cocoon/profile"
)

// Inputs are the parts of the root that differ between images.
type Inputs struct {
	// Profile is the name of the profile.
	Profile string
	// Binary is the guest binary.
	Binary []byte
	// Modules are the kernel modules in the order in which to load them.
	Modules []ModuleFile
	// Epoch is the build time in Unix seconds, normally SOURCE_DATE_EPOCH.
	Epoch int64
	// Policy is the default policy; nil means that there is none.
	Policy []byte
	// CABundle is a file of PEM certificates; nil means that there is none.
	CABundle []byte
}

// ModuleFile is a kernel module, not compressed.
type ModuleFile struct {
	boot.Module
	Data []byte
}

// Root returns every entry of the root except parent directories of modules.
// The order has no meaning.
func Root(in Inputs) ([]Entry, error) {
	if in.Profile == "" || len(in.Binary) == 0 || in.Epoch < 0 {
		return nil, fmt.Errorf("recipe needs a profile, a binary and a build time: have %q, %d bytes, %d",
			in.Profile, len(in.Binary), in.Epoch)
	}
	list := moduleList(in.Modules)
	if _, err := boot.ParseModules(list); err != nil {
		return nil, fmt.Errorf("module list that PID 1 would refuse: %w", err)
	}
	entries := append(skeleton(), nodes()...)
	entries = append(entries, configuration()...)
	entries = append(entries,
		Entry{Path: "init", Mode: TypeFile | 0o755, Data: in.Binary},
		file(boot.ModulesPath, list),
		file(boot.EpochPath, fmt.Sprintf("%d\n", in.Epoch)),
		file(ProfilePath, in.Profile+"\n"))
	for _, m := range in.Modules {
		entries = append(entries, file(m.Path, string(m.Data)))
	}
	if in.Policy != nil {
		entries = append(entries, file(PolicyPath, string(in.Policy)))
	}
	if in.CABundle != nil {
		entries = append(entries, file(CABundlePath, string(in.CABundle)))
	}
	return entries, nil
}

func moduleList(mods []ModuleFile) string {
	var b strings.Builder
	for _, m := range mods {
		if m.Optional {
			b.WriteByte('?')
		}
		b.WriteString(m.Path + "\n")
	}
	return b.String()
}

func file(path, content string) Entry {
	return Entry{Path: strings.TrimPrefix(path, "/"), Mode: TypeFile | 0o644, Data: []byte(content)}
}

func link(path, target string) Entry {
	return Entry{Path: path, Mode: TypeSymlink | 0o777, Data: []byte(target)}
}

func skeleton() []Entry {
	var dirs []Entry
	for _, d := range []string{
		"bin", "dev", "etc", "etc/cocoon", "etc/kata-opa", "etc/ssl", "etc/ssl/certs", "lib", "lib/modules",
		"media", "mnt", "proc", "run", "sbin", "sys", "usr", "usr/bin", "usr/sbin", "var", "var/lib",
		"pause_bundle", "pause_bundle/rootfs",
	} {
		dirs = append(dirs, Entry{Path: d, Mode: TypeDir | 0o755})
	}
	return append(dirs,
		Entry{Path: "root", Mode: TypeDir | 0o700},
		Entry{Path: "tmp", Mode: TypeDir | 0o1777},
		link("var/run", "/run"))
}

// nodes are the devices that exist before devtmpfs is mounted: PID 1 has no
// standard output without console, and no log without kmsg.
func nodes() []Entry {
	return []Entry{
		{Path: "dev/console", Mode: TypeChar | 0o600, Major: 5, Minor: 1},
		{Path: "dev/kmsg", Mode: TypeChar | 0o600, Major: 1, Minor: 11},
		{Path: "dev/null", Mode: TypeChar | 0o666, Major: 1, Minor: 3},
	}
}

func configuration() []Entry {
	return []Entry{
		file("etc/passwd", "root:x:0:0:root:/root:/bin/false\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"),
		file("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
		file("etc/hostname", "localhost\n"),
		file("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
		file("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
		link("etc/resolv.conf", boot.ResolvPath),
		file(PauseBundle+"/config.json", pauseConfig),
		{Path: "pause_bundle/rootfs/pause", Mode: TypeFile | 0o755},
	}
}

// pauseConfig is the part of the OCI specification that the agent takes from
// the bundle; the host's request brings the rest.
const pauseConfig = `{"ociVersion":"1.2.0","process":{"terminal":false,"user":{"uid":65535,"gid":65535},` +
	`"args":["/pause"],"env":["PATH=/"],"cwd":"/","noNewPrivileges":true},` +
	`"root":{"path":"rootfs","readonly":true}}` + "\n"
