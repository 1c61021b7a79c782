"""What describes a run: fields, presets, YAML files and flags. Imports no torch.

Values come from a preset (`presets`), then a YAML file, then flags (`loading`); the merged
dictionary is validated once against `schema`, and `wording` describes what is wrong with it.
`describe` makes the JSON schema for editors. Read `schema` first.
"""

from layermix.config.describe import json_schema as json_schema
from layermix.config.loading import ALIASES as ALIASES
from layermix.config.loading import Config as Config
from layermix.config.loading import as_written as as_written
from layermix.config.loading import dump_yaml as dump_yaml
from layermix.config.loading import explain as explain
from layermix.config.loading import load as load
from layermix.config.loading import nest as nest
from layermix.config.loading import read_own_yaml as read_own_yaml
from layermix.config.loading import read_yaml as read_yaml
from layermix.config.loading import to_yaml as to_yaml
from layermix.config.presets import PRESETS as PRESETS
from layermix.config.schema import SCORED as SCORED
from layermix.config.schema import WAYS as WAYS
from layermix.config.schema import AttentionReduction as AttentionReduction
from layermix.config.schema import AuditConfig as AuditConfig
from layermix.config.schema import CacheConfig as CacheConfig
from layermix.config.schema import CorpusConfig as CorpusConfig
from layermix.config.schema import DataConfig as DataConfig
from layermix.config.schema import DistillConfig as DistillConfig
from layermix.config.schema import HiddenReduction as HiddenReduction
from layermix.config.schema import LabelLossConfig as LabelLossConfig
from layermix.config.schema import LogitLoss as LogitLoss
from layermix.config.schema import LossConfig as LossConfig
from layermix.config.schema import MixConfig as MixConfig
from layermix.config.schema import MixName as MixName
from layermix.config.schema import Precision as Precision
from layermix.config.schema import PretrainConfig as PretrainConfig
from layermix.config.schema import ProblemName as ProblemName
from layermix.config.schema import Section as Section
from layermix.config.schema import Source as Source
from layermix.config.schema import StudentConfig as StudentConfig
from layermix.config.schema import SupervisedLoss as SupervisedLoss
from layermix.config.schema import TeachConfig as TeachConfig
from layermix.config.schema import TeacherConfig as TeacherConfig
from layermix.config.schema import Tracker as Tracker
from layermix.config.schema import TrainingConfig as TrainingConfig
from layermix.config.schema import field_names as field_names
from layermix.config.schema import merge as merge
from layermix.config.schema import section_kinds as section_kinds
from layermix.config.schema import spell_out as spell_out
from layermix.config.schema import with_implied_preset as with_implied_preset
from layermix.config.wording import describe_problem as describe_problem
from layermix.config.wording import describe_problems as describe_problems
from layermix.config.wording import problems_of as problems_of
