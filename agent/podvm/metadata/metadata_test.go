// Copyright The Cocoon Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"cocoon/internal/bounded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const document = "#cloud-config\nwrite_files: []\n"

// service is a cloud's metadata service on loopback. It notes what it is asked.
type service struct {
	*Client
	mu    sync.Mutex
	asked []string
}

// newService serves handle and leads every address of a service to it.
func newService(t *testing.T, handle http.HandlerFunc) *service {
	t.Helper()
	s := &service{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.Method+" "+r.Host+r.URL.RequestURI())
		s.mu.Unlock()
		handle(w, r)
	}))
	t.Cleanup(srv.Close)
	s.Client = New(func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil || port != "80" || (host != linkLocal && host != alibaba && host != wireServer) {
			return nil, fmt.Errorf("dial %q: not the address of a service", address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
	})
	return s
}

func write(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Log(err) // the client may have gone
	}
}

func TestEveryCloudIsAskedInItsOwnWay(t *testing.T) {
	t.Parallel()
	coded := base64.StdEncoding.EncodeToString([]byte(document))
	for p, tc := range map[Provider]struct {
		answer func(t *testing.T, w http.ResponseWriter, r *http.Request)
		asked  string
	}{
		Azure: {func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Metadata") != "true" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			write(t, w, coded[:10]+"\r\n"+coded[10:]+"\n")
		}, "GET 169.254.169.254/metadata/instance/compute/userData?api-version=2021-01-01&format=text"},
		AWS: {func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodPut && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "60":
				write(t, w, "a-token")
			case r.Header.Get("X-aws-ec2-metadata-token") == "a-token":
				write(t, w, document)
			default:
				w.WriteHeader(http.StatusUnauthorized)
			}
		}, "PUT 169.254.169.254/latest/api/token GET 169.254.169.254/latest/user-data"},
		GCP: {func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Metadata-Flavor") != "Google" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			write(t, w, coded)
		}, "GET metadata.google.internal/computeMetadata/v1/instance/attributes/user-data"},
		Alibaba: {func(t *testing.T, w http.ResponseWriter, _ *http.Request) { write(t, w, document) }, "GET 100.100.100.200/latest/user-data"},
	} {
		s := newService(t, func(w http.ResponseWriter, r *http.Request) { tc.answer(t, w, r) })
		data, err := s.UserData(t.Context(), p)
		if err != nil || string(data) != document || strings.Join(s.asked, " ") != tc.asked {
			t.Errorf("%s: %q (%v), asked %q", p, data, err, s.asked)
		}
	}
}

func TestVersionOneOfTheServiceOfAWSWillDo(t *testing.T) {
	t.Parallel()
	s := newService(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		write(t, w, document)
	})
	if data, err := s.UserData(t.Context(), AWS); err != nil || string(data) != document {
		t.Errorf("%q (%v)", data, err)
	}
}

func TestAnswersThatAreNotSoundAreRefused(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("A", maxBody+1)
	for name, tc := range map[string]struct {
		provider Provider
		answer   func(w http.ResponseWriter)
		want     error
	}{
		"status":     {Alibaba, func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, ErrService},
		"no content": {Alibaba, func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) }, ErrService},
		"redirect": {Azure, func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://169.254.169.254/x")
			w.WriteHeader(http.StatusFound)
		}, errRedirect},
		"no base64":      {Azure, func(w http.ResponseWriter) { write(t, w, "#cloud-config") }, ErrService},
		"half of base64": {GCP, func(w http.ResponseWriter) { write(t, w, "YWJj=") }, ErrService},
		"too long":       {Alibaba, func(w http.ResponseWriter) { write(t, w, long) }, bounded.ErrTooLarge},
		"too long, coded": {GCP, func(w http.ResponseWriter) {
			write(t, w, base64.StdEncoding.EncodeToString(make([]byte, MaxUserData+1)))
		}, bounded.ErrTooLarge},
		"cut short":      {Alibaba, func(w http.ResponseWriter) { w.Header().Set("Content-Length", "99"); write(t, w, "abc") }, io.ErrUnexpectedEOF},
		"other provider": {"openstack", func(http.ResponseWriter) {}, ErrService},
	} {
		s := newService(t, func(w http.ResponseWriter, _ *http.Request) { tc.answer(w) })
		if data, err := s.once(t.Context(), tc.provider); !errors.Is(err, tc.want) || !errors.Is(err, ErrService) || data != nil {
			t.Errorf("%s: %d bytes (%v)", name, len(data), err)
		}
	}
}

func TestAServiceThatIsNotThereIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		c := New(func(context.Context, string, string) (net.Conn, error) {
			dials++
			return nil, errors.New("no route")
		})
		began := time.Now()
		_, err := c.UserData(t.Context(), Alibaba)
		if !errors.Is(err, ErrService) || dials != attempts || time.Since(began) != (attempts-1)*pause {
			t.Errorf("%v after %v and %d tries", err, time.Since(began), dials)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.UserData(ctx, Alibaba); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrService) {
			t.Errorf("with a deadline: %v", err)
		}
	})
}

func TestASlowServiceIsGivenUp(t *testing.T) {
	t.Parallel()
	s := newService(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.once(ctx, Azure); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestTheMachinesVendorTellsTheProvider(t *testing.T) {
	t.Parallel()
	for vendor, want := range map[string]Provider{
		"Microsoft Corporation\n": Azure, "Amazon EC2\n": AWS, "Google\n": GCP, "Alibaba Cloud\n": Alibaba,
		"QEMU\n": None, "": None, "Amazon EC2 and more": None, strings.Repeat("x", 9000): None,
	} {
		sys := t.TempDir()
		dir := filepath.Join(sys, "class/dmi/id")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "sys_vendor"), []byte(vendor), 0o600)); err != nil {
			t.Fatal(err)
		}
		if p, err := Detect(sys); err != nil || p != want {
			t.Errorf("%q: %q (%v)", vendor, p, err)
		}
	}
	if p, err := Detect(t.TempDir()); err != nil || p != None {
		t.Errorf("without tables: %q (%v)", p, err)
	}
}

// azure answers as the wire server does.
func azure(t *testing.T, versions, goal string, got *string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-ms-agent-name") == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		switch r.Method + " " + r.URL.RequestURI() {
		case "GET /?comp=versions":
			write(t, w, versions)
		case "GET /machine/?comp=goalstate":
			write(t, w, goal)
		case "POST /machine?comp=health":
			b, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			*got = r.Header.Get("x-ms-version") + " " + r.Header.Get("Content-Type") + " " + string(b)
			w.WriteHeader(http.StatusAccepted)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}
}

const (
	someVersions = "<Versions><Preferred><Version>2015-04-05</Version></Preferred><Supported><Version>2012-11-30</Version><Version>2015-04-05</Version></Supported></Versions>"
	someGoal     = "<GoalState><Incarnation>1</Incarnation><Container><ContainerId>c-1</ContainerId><RoleInstanceList><RoleInstance><InstanceId>i-1</InstanceId></RoleInstance></RoleInstanceList></Container></GoalState>"
)

func TestAzureIsToldThatTheMachineIsReady(t *testing.T) {
	t.Parallel()
	var got string
	s := newService(t, azure(t, someVersions, someGoal, &got))
	if err := s.ReportReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := "2015-04-05 text/xml; charset=utf-8 " + xml.Header + "<Health><GoalStateIncarnation>1</GoalStateIncarnation><Container><ContainerId>c-1</ContainerId>" +
		"<RoleInstanceList><Role><InstanceId>i-1</InstanceId><Health><State>Ready</State></Health></Role></RoleInstanceList></Container></Health>"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s = newService(t, azure(t, "<Versions><Supported><Version>2012-11-30</Version></Supported></Versions>", someGoal, &got))
	if err := s.ReportReady(t.Context()); err != nil || !strings.HasPrefix(got, "2012-11-30 ") {
		t.Errorf("an older server: %q (%v)", got, err)
	}
}

func TestAzureAnswersThatAreNotSoundAreTriedAgain(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string][2]string{
		"no XML":      {"{}", someGoal},
		"no version":  {"<Versions></Versions>", someGoal},
		"no goal":     {someVersions, ""},
		"no instance": {someVersions, "<GoalState><Incarnation>1</Incarnation><Container><ContainerId>c</ContainerId></Container></GoalState>"},
		"endless":     {strings.Repeat("<a>", maxXML), someGoal},
	} {
		var got string
		s := newService(t, azure(t, tc[0], tc[1], &got))
		if err := s.reportReady(t.Context()); !errors.Is(err, ErrService) || got != "" {
			t.Errorf("%s: %v, reported %q", name, err, got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := s.ReportReady(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrService) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

func FuzzGoalState(f *testing.F) {
	f.Add([]byte(someGoal))
	f.Add([]byte("<GoalState>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var g goalState
		if err := xml.Unmarshal(b, &g); err != nil {
			return
		}
		if _, err := xml.Marshal(health{Incarnation: g.Incarnation, ContainerID: g.ContainerID, InstanceID: g.InstanceID}); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
	})
}
