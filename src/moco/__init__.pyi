from moco.config import Config as Config
from moco.console import Silent as Silent
from moco.console import listening as listening
from moco.errors import UserError as UserError
from moco.model.moco import MoCo as MoCo
from moco.runs.bench import bench as bench
from moco.runs.evaluate import evaluate as evaluate
from moco.runs.finetune import finetune as finetune
from moco.runs.finetune import load_finetuned as load_finetuned
from moco.runs.finetune import resume_finetune as resume_finetune
from moco.runs.finetune_options import FinetuneOptions as FinetuneOptions
from moco.runs.labels import labels as labels
from moco.runs.labels_options import LabelsOptions as LabelsOptions
from moco.runs.linear import linear as linear
from moco.runs.pretrain import pretrain as pretrain
from moco.runs.pretrain import resume as resume
from moco.runs.preview import preview as preview
from moco.runs.recipe import recipe as recipe
from moco.runs.trained import Run as Run
from moco.runs.trained import load_backbone as load_backbone
from moco.runs.trained import open_run as open_run
from moco.runs.verify import verify as verify

__version__: str
