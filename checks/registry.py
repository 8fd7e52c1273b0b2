"""All checks, in the order of the table."""

from checks import images, linters, monitoring, pods, programs, references, rights, schemas, secret_values
from checks.outcome import Check
from checks.rendering import rendered


def _look_rendering() -> tuple[str, list[str]]:
    return f"{len(rendered())} targets", []


CHECKS = (
    Check("render", "kubectl renders every overlay and every part that no overlay has", _look_rendering),
    Check("yaml", "YAML has the style of .yamllint", linters.look_yaml),
    Check("shell", "shellcheck finds nothing in the scripts of containers", linters.look_shell),
    Check("core kinds", "Kubernetes' own schemas allow every object, and know every field", schemas.look_core),
    Check("custom kinds", "the CRDs allow every object, and know every field", schemas.look_crds),
    Check("gateway kinds", "the models of Envoy Gateway and the Gateway API allow every object", schemas.look_gateway),
    Check("pod security", "every pod meets Pod Security `restricted`, with a read-only root", pods.look),
    Check("references", "what objects name of each other is there", references.look),
    Check("checkov", "checkov finds nothing but what has a reason", linters.look_checkov),
    Check("images", "every image is named by a digest or by a hash of its content", images.look),
    Check("secrets", "no secret has a value", secret_values.look),
    Check("rights", "every account may do what the code calls, and nothing else", rights.look),
    Check("variables", "the program reads every variable that a container sets", programs.look_variables),
    Check("predictors", "predictors start as the manifests say, answer their probes, and export what is shown",
          programs.look_predictors),
    Check("tracking", "MLflow starts as the manifests say, and answers its probes", programs.look_trackers),
    Check("object store", "SeaweedFS starts as the manifests say, and wants signatures", programs.look_object_store),
    Check("jobs", "jobs of the project's images run as the manifests say", programs.look_jobs),
    Check("rules", "promtool takes the rules, and a test raises each alert", monitoring.look_rules),
    Check("dashboards", "Grafana's schema allows the dashboards", monitoring.look_dashboards),
    Check("queries", "promtool reads the dashboards' queries", monitoring.look_queries),
)  # fmt: skip
