from moco.config import Config as Config
from moco.console import Silent as Silent
from moco.console import listening as listening
from moco.errors import UserError as UserError
from moco.model.moco import MoCo as MoCo
from moco.runs.bench import bench as bench
from moco.runs.evaluate import evaluate as evaluate
from moco.runs.export import export as export
from moco.runs.import_weights import import_weights as import_weights
from moco.runs.linear import linear as linear
from moco.runs.pretrain import pretrain as pretrain
from moco.runs.pretrain import resume as resume
from moco.runs.preview import preview as preview
from moco.runs.recipe import recipe as recipe
from moco.runs.trained import Run as Run
from moco.runs.trained import load_backbone as load_backbone
from moco.runs.trained import open_run as open_run

__version__: str
