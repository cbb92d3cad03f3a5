"""The engine: from a model's graph to parameters, and into the model."""

from ghn.engine.base import Base, BaseConfig
from ghn.engine.checkpoint import embedded_checkpoints, load_ghn
from ghn.engine.describe import Description
from ghn.engine.diagnose import MagnitudeDiagnosis, diagnose_magnitude
from ghn.engine.histograms import parameter_histograms
from ghn.engine.hypernet import GHN, GHNConfig
from ghn.engine.page import prediction_page
from ghn.engine.predict import predict_params, predict_state_dict
from ghn.engine.report import Report
from ghn.engine.support import Support

__all__ = [
    "GHN",
    "Base",
    "BaseConfig",
    "Description",
    "GHNConfig",
    "MagnitudeDiagnosis",
    "Report",
    "Support",
    "diagnose_magnitude",
    "embedded_checkpoints",
    "load_ghn",
    "parameter_histograms",
    "predict_params",
    "predict_state_dict",
    "prediction_page",
]
