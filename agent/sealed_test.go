// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"cocoon/internal/wire/agentpb"
)

// reverser opens "sealed.x" as "x" reversed, and refuses "sealed.bad".
type reverser struct{}

func (reverser) UnsealSecret(_ context.Context, sealed []byte) ([]byte, error) {
	text, ok := strings.CutPrefix(string(sealed), "sealed.")
	switch {
	case !ok, text == "bad":
		return nil, errors.New("not-found: no such secret")
	case text == "binary":
		return []byte{0xff, 0}, nil
	}
	out := make([]byte, 0, len(text))
	for i := len(text) - 1; i >= 0; i-- {
		out = append(out, text[i])
	}
	return out, nil
}

// volume copies a Secret as shims do: a directory of its data, a link to it,
// and a link for each key.
func (g *guest) volume(t *testing.T, name string, keys map[string]string) string {
	t.Helper()
	top := g.paths.Shared + "/" + name
	send := func(p string, mode uint32, data string) {
		size := int64(len(data))
		if mode&unix.S_IFMT != unix.S_IFREG {
			size = 0
		}
		if _, err := g.CopyFile(limited(t), &agentpb.CopyFileRequest{
			Path: p, FileMode: mode, DirMode: 0o755, FileSize: size, Data: []byte(data),
		}); err != nil {
			t.Fatal(err)
		}
	}
	send(top+"/..2026", unix.S_IFDIR|0o755, "")
	send(top+"/..data", unix.S_IFLNK|0o777, "..2026")
	for k, v := range keys {
		send(top+"/..2026/"+k, unix.S_IFREG|0o640, v)
		send(top+"/"+k, unix.S_IFLNK|0o777, "..data/"+k)
	}
	return top
}

func TestSealedSecretsAreOpenedForTheContainer(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{unsealer: reverser{}})
	r := g.container("c1", "sh", "-c", `echo "$S $P"; cat /vol/key /vol/plain /one; stat -c %a /vol/key`)
	r.OCI.Process.Env = append(r.OCI.Process.Env, "S=sealed.terces", "P=plain.sealed.x")
	vol := g.volume(t, "c1-vol", map[string]string{"key": "sealed.elif\n", "plain": "plain", "short": "se"})
	if _, err := g.CopyFile(limited(t), &agentpb.CopyFileRequest{
		Path: g.paths.Shared + "/c1-one", FileMode: unix.S_IFREG | 0o600, FileSize: 10, Data: []byte("sealed.eno"),
	}); err != nil {
		t.Fatal(err)
	}
	r.OCI.Mounts = append(r.OCI.Mounts,
		&agentpb.Mount{Destination: "/vol", Source: vol, Type: "bind", Options: []string{"rbind", "ro"}},
		&agentpb.Mount{Destination: "/one", Source: g.paths.Shared + "/c1-one", Type: "bind", Options: []string{"rbind", "ro"}})
	g.created(t, r)
	if _, err := g.StartContainer(limited(t), &agentpb.StartContainerRequest{ContainerId: "c1"}); err != nil {
		t.Fatal(err)
	}
	if out := g.output(t, "c1", ""); out != "secret plain.sealed.x\nfileplainone640\n" {
		t.Errorf("output %q", out)
	}
}

func TestASealedSecretThatCannotBeOpenedStopsTheContainer(t *testing.T) {
	t.Parallel()
	for name, unsealer := range map[string]Unsealer{"refused": reverser{}, "no unsealer": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t, guestOptions{unsealer: unsealer})
			for _, value := range []string{"sealed.bad", "sealed.binary"} {
				r := g.container("c1", "true")
				r.OCI.Process.Env = append(r.OCI.Process.Env, "TOKEN="+value)
				_, err := g.CreateContainer(limited(t), r)
				wantStatus(t, err, codes.Internal, `environment variable "TOKEN": sealed secret cannot be opened`)
				if err != nil && strings.Contains(err.Error(), value) {
					t.Errorf("the secret is in the error: %v", err)
				}
			}
			r := g.container("c1", "true")
			vol := g.volume(t, "c1-vol", map[string]string{"key": "sealed.bad"})
			r.OCI.Mounts = append(r.OCI.Mounts, &agentpb.Mount{Destination: "/vol", Source: vol, Type: "bind", Options: []string{"rbind"}})
			_, err := g.CreateContainer(limited(t), r)
			wantStatus(t, err, codes.Internal, `mount "/vol": file "c1-vol/`)
		})
	}
}

// TestTheHostCannotReadAnOpenedSecret has the host copy a sealed secret, which
// it knows from the pod, and ask for it as a termination message.
func TestTheHostCannotReadAnOpenedSecret(t *testing.T) {
	t.Parallel()
	g := newGuest(t, guestOptions{unsealer: reverser{}})
	vol := g.volume(t, "c1-vol", map[string]string{"key": "sealed.elif"})
	file := g.paths.Shared + "/c1-one"
	if _, err := g.CopyFile(limited(t), &agentpb.CopyFileRequest{
		Path: file, FileMode: unix.S_IFREG | 0o600, FileSize: 10, Data: []byte("sealed.eno"),
	}); err != nil {
		t.Fatal(err)
	}
	r := g.container("c1", "true")
	r.OCI.Mounts = append(r.OCI.Mounts,
		&agentpb.Mount{Destination: "/one", Source: file, Type: "bind", Options: []string{"bind"}},
		&agentpb.Mount{Destination: "/key", Source: vol + "/key", Type: "bind", Options: []string{"bind"}})
	r.OCI.Annotations = map[string]string{terminationMessage: "/one"}
	g.created(t, r)
	// A later container finds the file open already, and by another name.
	if _, err := g.CopyFile(limited(t), &agentpb.CopyFileRequest{
		Path: g.paths.Shared + "/alias", FileMode: unix.S_IFLNK | 0o777, Data: []byte("c1-one"),
	}); err != nil {
		t.Fatal(err)
	}
	for id, source := range map[string]string{"c2": file, "c3": g.paths.Shared + "/alias", "c4": vol + "/key"} {
		later := g.container(id, "true")
		later.OCI.Mounts = append(later.OCI.Mounts, &agentpb.Mount{Destination: "/m", Source: source, Type: "bind", Options: []string{"bind"}})
		later.OCI.Annotations = map[string]string{terminationMessage: "/m"}
		g.created(t, later)
	}
	for _, id := range []string{"c1", "c2", "c3", "c4"} {
		d, err := g.GetDiagnosticData(limited(t), &agentpb.GetDiagnosticDataRequest{LogType: "termination_log", ContainerId: id})
		if err == nil {
			t.Fatalf("%s: the host reads %q", id, d.GetData())
		}
		wantStatus(t, err, codes.InvalidArgument, "was sealed")
	}
}
