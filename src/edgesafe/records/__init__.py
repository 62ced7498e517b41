"""The frozen records that travel between stages and into the study directory, one file per topic.

Rules: rates are fractions in [0, 1]; latencies are milliseconds; NLL is in nats; a hash is "sha256:<64 hex digits>";
no NaN and no infinity is ever held. Everything here is JSON, except `Evidence` and `ImageSet`, which hold arrays.
"""

from edgesafe.records.base import Record
from edgesafe.records.certificates import (
    CertificateEngine,
    CertificateProvenance,
    Certificates,
    SetCertificates,
    Standing,
    Witnesses,
)
from edgesafe.records.data import DataBundle, DataIdentity, ImageSet
from edgesafe.records.evidence import Cell, Evidence
from edgesafe.records.inputs import InputRecord
from edgesafe.records.measurements import (
    Comparison,
    IntervalMethod,
    Measurement,
    Measurements,
    Population,
    PopulationKind,
    Unit,
)
from edgesafe.records.names import Name
from edgesafe.records.provenance import (
    CorruptionIdentity,
    DirectoryCorruptions,
    GeneratedCorruptions,
    Provenance,
    Sample,
    SampleDesign,
    Target,
)
from edgesafe.records.results import (
    BenchResult,
    CommandResult,
    DoctorResult,
    Estimate,
    Fact,
    FilesResult,
    InitResult,
    LinesResult,
    ModelsResult,
    SensitivityRow,
    StudyResult,
    StudyRow,
)
from edgesafe.records.study import Host, Role, StudyRecord, VariantEntry, VariantStatus
from edgesafe.records.surgery import Declined, Engine, EngineReason, LayerRecord, Proof, SurgeryRecord
from edgesafe.records.variant import (
    Artefact,
    BaselineTraining,
    FineTuning,
    Lineage,
    Parity,
    Recovery,
    Temperature,
    TrainingMode,
    VariantRecord,
)
from edgesafe.records.verdict import GateResult, GateStatus, Verdict

__all__ = [
    "Artefact",
    "BaselineTraining",
    "BenchResult",
    "Cell",
    "CertificateEngine",
    "CertificateProvenance",
    "Certificates",
    "CommandResult",
    "Comparison",
    "CorruptionIdentity",
    "DataBundle",
    "DataIdentity",
    "Declined",
    "DirectoryCorruptions",
    "DoctorResult",
    "Engine",
    "EngineReason",
    "Estimate",
    "Evidence",
    "Fact",
    "FilesResult",
    "FineTuning",
    "GateResult",
    "GateStatus",
    "GeneratedCorruptions",
    "Host",
    "ImageSet",
    "InitResult",
    "InputRecord",
    "IntervalMethod",
    "LayerRecord",
    "Lineage",
    "LinesResult",
    "Measurement",
    "Measurements",
    "ModelsResult",
    "Name",
    "Parity",
    "Population",
    "PopulationKind",
    "Proof",
    "Provenance",
    "Record",
    "Recovery",
    "Role",
    "Sample",
    "SampleDesign",
    "SensitivityRow",
    "SetCertificates",
    "Standing",
    "StudyRecord",
    "StudyResult",
    "StudyRow",
    "SurgeryRecord",
    "Target",
    "Temperature",
    "TrainingMode",
    "Unit",
    "VariantEntry",
    "VariantRecord",
    "VariantStatus",
    "Verdict",
    "Witnesses",
]
