// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"cocoon/internal/sharedtest"
	"cocoon/internal/wire/agentpb"
	"cocoon/internal/wire/typespb"
)

// tree decodes JSON with exact numbers.
func tree(t testing.TB, text string) any {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var x any
	if err := dec.Decode(&x); err != nil {
		t.Fatalf("decode %q: %v", text, err)
	}
	return x
}

// plain turns a term value into the tree that tree returns.
func plain(t testing.TB, v ast.Value) any {
	t.Helper()
	x, err := ast.JSON(v)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	return tree(t, string(raw))
}

func TestRequestsHaveTheirExactJSONForm(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		req  proto.Message
		want string
	}{
		"defaults are present": {&agentpb.CreateSandboxRequest{}, `{"hostname": "", "dns": [], "storages": [],
			"sandbox_pidns": false, "sandbox_id": "", "guest_hook_path": "", "kernel_modules": []}`},
		"unset messages are null": {&agentpb.CreateContainerRequest{}, `{"container_id": "", "exec_id": "",
			"string_user": null, "devices": [], "storages": [], "OCI": null, "sandbox_pidns": false, "shared_mounts": [],
			"stdin_port": 0, "stdout_port": 0, "stderr_port": 0}`},
		"type is renamed, Type is not": {&agentpb.Spec{
			Mounts: []*agentpb.Mount{{Destination: "/d", Source: "s", Type: "bind", Options: []string{"ro"}}},
			Linux:  &agentpb.Linux{Namespaces: []*agentpb.LinuxNamespace{{Type: "ipc"}}},
		}, ""},
		"bytes are numbers": {&agentpb.WriteStreamRequest{ContainerId: "c", ExecId: "e", Data: []byte{0, 7, 255}},
			`{"container_id": "c", "exec_id": "e", "data": [0, 7, 255]}`},
		"optional scalars are null or their value": {
			&agentpb.MemAgentCompactConfig{Disabled: proto.Bool(false), CompactThreshold: proto.Uint64(math.MaxUint64), CompactSecMax: proto.Int64(math.MinInt64)},
			`{"disabled": false, "period_secs": null, "period_psi_percent_limit": null, "compact_psi_percent_limit": null,
			"compact_sec_max": -9223372036854775808, "compact_order": null, "compact_threshold": 18446744073709551615, "compact_force_times": null}`},
		"enums are numbers": {&typespb.IPAddress{Family: typespb.IPFamily_v6, Address: "::1", Mask: "128"},
			`{"family": 1, "address": "::1", "mask": "128"}`},
		"set oneof": {&agentpb.LinuxSyscall{Names: []string{"x"}, ErrnoRet: &agentpb.LinuxSyscall_Errnoret{Errnoret: 0}},
			`{"Names": ["x"], "Action": "", "Args": [], "ErrnoRet": {"Errnoret": 0}}`},
		"unset oneof": {&agentpb.LinuxSyscall{}, `{"Names": [], "Action": "", "Args": [], "ErrnoRet": null}`},
		"names keep their style": {&typespb.Interface{Device: "eth0", HwAddr: "02:00:00:00:00:01", Mtu: 1500},
			`{"device": "eth0", "name": "", "IPAddresses": [], "mtu": 1500, "hwAddr": "02:00:00:00:00:01", "devicePath": "", "type_": "", "raw_flags": 0}`},
		"signed 64 bit": {&agentpb.SetGuestDateTimeRequest{Sec: math.MaxInt64, Usec: -1}, `{"Sec": 9223372036854775807, "Usec": -1}`},
		"list of 64 bit": {&agentpb.MemHotplugByProbeRequest{MemHotplugProbeAddr: []uint64{1, math.MaxUint64}},
			`{"memHotplugProbeAddr": [1, 18446744073709551615]}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := encode(tc.req)
			if err != nil {
				t.Fatal(err)
			}
			got := plain(t, v)
			if tc.want == "" {
				checkTypeNames(t, got)
				return
			}
			if d := cmp.Diff(tree(t, tc.want), got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func checkTypeNames(t *testing.T, spec any) {
	t.Helper()
	s := spec.(map[string]any)
	m := s["Mounts"].([]any)[0].(map[string]any)
	want := map[string]any{"destination": "/d", "source": "s", "type_": "bind", "options": []any{"ro"}}
	if d := cmp.Diff(want, m); d != "" {
		t.Errorf("mount (-want +got)\n%s", d)
	}
	ns := s["Linux"].(map[string]any)["Namespaces"].([]any)[0]
	if d := cmp.Diff(map[string]any{"Type": "ipc", "Path": ""}, ns); d != "" {
		t.Errorf("namespace (-want +got)\n%s", d)
	}
	if s["Process"] != nil || s["Hooks"] != nil {
		t.Error("unset messages are not null")
	}
}

func TestMapsAreObjects(t *testing.T) {
	t.Parallel()
	v, err := encode(&agentpb.Spec{Annotations: map[string]string{"a": "1", "": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	got := plain(t, v).(map[string]any)["Annotations"]
	if d := cmp.Diff(map[string]any{"a": "1", "": "2"}, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestUnknownFieldsAreNotShown(t *testing.T) {
	t.Parallel()
	m := &agentpb.StartContainerRequest{ContainerId: "c"}
	m.ProtoReflect().SetUnknown(protoreflect.RawFields{0xf8, 0x07, 0x01}) // field 127
	v, err := encode(m)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(tree(t, `{"container_id": "c"}`), plain(t, v)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestCopyFileIsShownWithoutItsContent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		mode           uint32
		data           string
		kind, linkJSON string
	}{
		"regular":   {0o100644, "secret", "Regular", "null"},
		"directory": {0o040755, "", "Directory", "null"},
		"symlink":   {0o120777, "../x", "Symlink", `"../x"`},
		"device":    {0o020600, "x", "Unknown", "null"},
		"no type":   {0o644, "x", "Unknown", "null"},
		"socket":    {0o140000, "x", "Unknown", "null"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := encode(&agentpb.CopyFileRequest{Path: "/p", FileMode: tc.mode, Data: []byte(tc.data), DirMode: 0o755, Uid: -1, Gid: 2, Offset: 3, FileSize: 4})
			if err != nil {
				t.Fatal(err)
			}
			mode, err := json.Marshal(tc.mode)
			if err != nil {
				t.Fatal(err)
			}
			want := `{"path": "/p", "file_type": "` + tc.kind + `", "symlink_target": ` + tc.linkJSON + `, "file_size": 4,
				"file_mode": ` + string(mode) + `, "dir_mode": 493, "uid": -1, "gid": 2, "offset": 3}`
			if d := cmp.Diff(tree(t, want), plain(t, v)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestALinkTargetThatIsNotUTF8IsRefused(t *testing.T) {
	t.Parallel()
	req := &agentpb.CopyFileRequest{FileMode: 0o120777, Data: []byte{0xff}}
	if _, err := encode(req); !errors.Is(err, errSymlinkTarget) {
		t.Errorf("got %v, want errSymlinkTarget", err)
	}
	req.FileMode = 0o100644
	if _, err := encode(req); err != nil {
		t.Errorf("binary content of a regular file: %v", err)
	}
}

func TestAHugeRequestIsRefusedBeforeItFillsMemory(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]proto.Message{
		"bytes":    &agentpb.WriteStreamRequest{Data: make([]byte, maxValues)},
		"messages": &agentpb.Spec{Mounts: manyMounts(maxValues / 5)},
		"strings":  &agentpb.Process{Args: make([]string, maxValues)},
	} {
		if _, err := encode(m); !errors.Is(err, errTooComplex) {
			t.Errorf("%s: got %v, want errTooComplex", name, err)
		}
	}
	if _, err := encode(&agentpb.WriteStreamRequest{Data: make([]byte, 1<<20)}); err != nil {
		t.Errorf("a write of 1 MiB: %v", err)
	}
}

func manyMounts(n int) []*agentpb.Mount {
	out := make([]*agentpb.Mount, n)
	for i := range out {
		out[i] = &agentpb.Mount{}
	}
	return out
}

type recorded struct {
	Method string          `json:"method"`
	Body   json.RawMessage `json:"body"`
}

// recordings returns the agent requests of a recorded session.
func recordings(t testing.TB, name string) (methods []string, reqs []proto.Message) {
	t.Helper()
	svc := agentpb.File_agent_agent_proto.Services().ByName("AgentService")
	sc := bufio.NewScanner(bytes.NewReader(sharedtest.Read(t, "recordings/"+name)))
	for sc.Scan() {
		var r recorded
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		method, ok := strings.CutPrefix(r.Method, "grpc.AgentService/")
		if !ok {
			continue
		}
		m := newMessage(t, svc.Methods().ByName(protoreflect.Name(method)).Input())
		if err := protojson.Unmarshal(r.Body, m); err != nil {
			t.Fatalf("%s: %v", r.Method, err)
		}
		methods, reqs = append(methods, method), append(reqs, m)
	}
	if len(reqs) == 0 {
		t.Fatal("no request was recorded")
	}
	return methods, reqs
}

// TestARecordedContainerHasTheFormThatPoliciesExpect looks at a request of a
// real shim with the eyes of a generated policy.
func TestARecordedContainerHasTheFormThatPoliciesExpect(t *testing.T) {
	t.Parallel()
	methods, reqs := recordings(t, "ctr-run.jsonl")
	for i, m := range methods {
		v, err := encode(reqs[i])
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		if m != "CreateContainer" {
			continue
		}
		in := plain(t, v).(map[string]any)
		oci := in["OCI"].(map[string]any)
		linux, proc := oci["Linux"].(map[string]any), oci["Process"].(map[string]any)
		res := linux["Resources"].(map[string]any)
		for path, pair := range map[string][2]any{
			"string_user":            {in["string_user"], nil},
			"shared_mounts":          {in["shared_mounts"], []any{}},
			"OCI.Hooks":              {oci["Hooks"], nil},
			"OCI.Solaris":            {oci["Solaris"], nil},
			"OCI.Windows":            {oci["Windows"], nil},
			"Linux.Seccomp":          {linux["Seccomp"], nil},
			"Linux.IntelRdt":         {linux["IntelRdt"], nil},
			"Linux.UIDMappings":      {linux["UIDMappings"], []any{}},
			"Resources.BlockIO":      {res["BlockIO"], nil},
			"Resources.Network":      {res["Network"], nil},
			"Resources.Pids":         {res["Pids"], nil},
			"Resources.Devices":      {res["Devices"], []any{}},
			"Resources.CPU.Shares":   {res["CPU"].(map[string]any)["Shares"], json.Number("1024")},
			"RootfsPropagation":      {linux["RootfsPropagation"], ""},
			"MountLabel":             {linux["MountLabel"], ""},
			"Process.SelinuxLabel":   {proc["SelinuxLabel"], ""},
			"Process.User":           {proc["User"], map[string]any{"UID": json.Number("0"), "GID": json.Number("0"), "AdditionalGids": []any{}, "Username": ""}},
			"Process.Terminal":       {proc["Terminal"], false},
			"storages[0].fs_group":   {in["storages"].([]any)[0].(map[string]any)["fs_group"], nil},
			"Mounts[0].type_":        {oci["Mounts"].([]any)[0].(map[string]any)["type_"], "proc"},
			"Process.Rlimits[0]":     {proc["Rlimits"].([]any)[0], map[string]any{"Type": "RLIMIT_NOFILE", "Hard": json.Number("1024"), "Soft": json.Number("1024")}},
			"Process.NoNewPrivilege": {proc["NoNewPrivileges"], true},
		} {
			if d := cmp.Diff(pair[1], pair[0]); d != "" {
				t.Errorf("%s (-want +got)\n%s", path, d)
			}
		}
	}
}

func TestARealSessionPassesAllowAll(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"ctr-run.jsonl", "cri-pod-full.jsonl"} {
		e := loaded(t, Config{}, AllowAll())
		methods, reqs := recordings(t, name)
		for i, m := range methods {
			if _, err := ask(t.Context(), e, m, reqs[i], nil); err != nil {
				t.Errorf("%s: %s: %v", name, m, err)
			}
		}
	}
}

func mustEncode(t testing.TB, m proto.Message) ast.Value {
	t.Helper()
	v, err := encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
