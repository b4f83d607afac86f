// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package as

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"cocoon/trustee/policy"
	"cocoon/trustee/store"
	"cocoon/trustee/teekey"
)

const vectorKey = `{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"VE5DZ3lY7GNrA5aP5NMjW98d4e1unpNW2OMcAMXLdEg","y":"5vkL19iSlbWONgHGXmtSDCMgIcvxQAfhyJOIhBXVf44"}`

func runtimeData(t testing.TB, additional string) Runtime {
	t.Helper()
	k, err := teekey.Parse([]byte(vectorKey))
	if err != nil {
		t.Fatal(err)
	}
	return Runtime{Nonce: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", Key: k, Additional: additional}
}

func TestRuntimeDataIsHashedAsTheProtocolSays(t *testing.T) {
	t.Parallel()
	r := runtimeData(t, "")
	for want, claims := range map[string]map[string]any{
		"98fbb5aa1eeca48969ff3f25de8a109c9aec97e0e7fb52b3b9806f07b1ad7affdb04257755d3f0e88d4dbe4b0e87a567": r.claims(),
		"9c74114334915b2fd63ba1248b3010984842dcedff68fc51474de852befb020372b3d270d45a4bf8792c2019c7882651": r.deviceClaims(),
		"e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3": {"b": 1, "a": "test", "c": map[string]any{"d": "e"}},
	} {
		d, err := digest("snp", claims)
		if err != nil || hex.EncodeToString(d) != want {
			t.Errorf("digest %x, want %s; error %v", d, want, err)
		}
	}
	plain, err := digest("snp", runtimeData(t, "").claims())
	if err != nil {
		t.Fatal(err)
	}
	html, err := digest("snp", runtimeData(t, `{"a":"<&>"}`).claims())
	if err != nil || string(html) == string(plain) {
		t.Fatalf("additional evidence is not covered; error %v", err)
	}
}

func TestTiersNest(t *testing.T) {
	t.Parallel()
	for v, want := range map[int]string{
		-1: "none", 0: "none", 1: "none", 2: "affirming", 31: "affirming", -2: "affirming", -32: "affirming",
		32: "warning", 95: "warning", -33: "warning", -96: "warning", 96: "contraindicated", 127: "contraindicated", -97: "contraindicated", -128: "contraindicated",
	} {
		if got := statusOf(map[string]int{"hardware": 0, "executables": v}); got != want {
			t.Errorf("%d is %s, want %s", v, got, want)
		}
	}
}

func TestInitDataIsExpandedForPolicies(t *testing.T) {
	t.Parallel()
	body := "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"aa.toml\" = '''\n[token_configs]\nx = 1\n'''\n" +
		"\"cdh.toml\" = \"not = = toml\"\n\"policy.rego\" = '''\npackage agent_policy\npolicy_data := {\"a\": [1]}\n'''\n\"other\" = \"text\"\n"
	d, err := parseInitData(body)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(d.claims)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"aa.toml":{"token_configs":{"x":1}},"agent_policy_claims":{"a":[1]},"cdh.toml":"not = = toml","other":"text"}`; string(got) != want {
		t.Fatalf("claims %s, want %s", got, want)
	}
	if len(d.digest) != 48 {
		t.Fatalf("digest of %d bytes", len(d.digest))
	}
}

func TestInitDataThatIsRefused(t *testing.T) {
	t.Parallel()
	const head = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n"
	for name, body := range map[string]string{
		"empty": "", "no TOML": "=", "no version": `algorithm = "sha256"`, "version": strings.Replace(head, "0.1.0", "0.2.0", 1), "no algorithm": `version = "0.1.0"`,
		"sm3": strings.Replace(head, "sha256", "sm3", 1), "data as list": head + "data = [1]", "file as number": head + "[data]\n\"aa.toml\" = 1",
		"too large": head + "#" + strings.Repeat("x", maxInitData), "brackets": head + "x = " + strings.Repeat("[", 1000),
		"inline tables": head + "x = " + strings.Repeat("{a=", 1000),
	} {
		if _, err := parseInitData(body); !errors.Is(err, ErrBadInitData) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func service(t testing.TB, allow bool) *Service {
	t.Helper()
	d, err := store.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	set, err := policy.OpenSet(d, DefaultPolicies())
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{AllowSample: allow, Policies: set})
}

type fake struct{}

func (fake) Verify(context.Context, json.RawMessage, Binding) (*Claims, error) {
	return &Claims{Class: "cpu", ReportData: "aa", Values: map[string]any{"measurement": "bb"}}, nil
}

func TestATEEWithoutRulesIsContraindicated(t *testing.T) {
	t.Parallel()
	s := service(t, false)
	s.verifiers["sgx"] = fake{}
	claims, err := s.Evaluate(t.Context(), Evidence{TEE: "sgx", Primary: json.RawMessage(`{}`), Runtime: runtimeData(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	cpu := claims["submods"].(map[string]any)["cpu0"].(map[string]any)
	if cpu[StatusMember] != "contraindicated" || !strings.Contains(strings.Join(cpu[ReasonsMember].([]string), " "), "no rule") {
		t.Fatalf("submodule %v", cpu)
	}
	if _, ok := cpu[EvidenceMember].(map[string]any)["init_data"]; ok {
		t.Fatal("init_data is claimed though the evidence has none")
	}
}

func TestSampleNeedsPermission(t *testing.T) {
	t.Parallel()
	for _, tee := range []string{"sample", "sampledevice"} {
		_, err := service(t, false).Evaluate(t.Context(), Evidence{TEE: tee, Primary: json.RawMessage(`{}`), Runtime: runtimeData(t, "")})
		if !errors.Is(err, ErrSampleDisabled) {
			t.Errorf("%s: error %v", tee, err)
		}
	}
	if err := service(t, true).Supports("snp"); !errors.Is(err, ErrUnknownTEE) {
		t.Errorf("snp: error %v", err)
	}
}

func FuzzInitData(f *testing.F) {
	f.Add("version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = \"x=1\"")
	f.Add("version = \"0.1.0\"\nalgorithm = \"sha512\"\n[data]\n\"policy.rego\" = \"policy_data := {}\"")
	f.Add("x = [[[[{a={")
	f.Fuzz(func(t *testing.T, body string) {
		d, err := parseInitData(body)
		if err != nil {
			if !errors.Is(err, ErrBadInitData) {
				t.Fatalf("error %v is not ErrBadInitData", err)
			}
			return
		}
		if len(d.digest) < 32 {
			t.Fatalf("digest of %d bytes", len(d.digest))
		}
	})
}

func FuzzEvidence(f *testing.F) {
	f.Add([]byte(`{"svn":"1","report_data":"AAAA"}`), "")
	f.Add([]byte(`{"svn":"1"}`), `{"sampledevice":{"svn":"2","report_data":"AAAA"}}`)
	f.Add([]byte(`[]`), `{`)
	s := service(f, true)
	f.Fuzz(func(t *testing.T, primary []byte, additional string) {
		r := runtimeData(t, additional)
		claims, err := s.Evaluate(t.Context(), Evidence{TEE: "sample", Primary: primary, Runtime: r})
		if err == nil {
			t.Fatalf("evidence without the digest was accepted: %v", claims)
		}
	})
}
